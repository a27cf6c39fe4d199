"""A child of the template is as if its parent had forked it: environment, directory, masks, limits, processors."""

from __future__ import annotations

from started import prints

CODE = """
import resource, subprocess

def look(reply):
    with open("/proc/thread-self/status") as status:
        mask = [line.split()[1] for line in status if line.startswith("Umask")]
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:7] == "RLIMIT_"}
    reply.send(
        {
            "environ": dict(os.environ),
            "raw environ": subprocess.run("printenv WEFT_TEST; printenv GONE", shell=True, stdout=-1).stdout,
            "cwd": os.getcwd(),
            "umask": mask,
            "signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
            "limits": limits,
            "processors": os.sched_getaffinity(0),
            "argv": sys.argv,
            "path": sys.path,
        }
    )

def ask(context):
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(writer,))
    process.start()
    writer.close()
    seen = reader.recv()
    process.join()
    assert process.exitcode == 0
    return seen

def grandchild(reply):
    context = mp.get_context("forkserver")
    os.environ["DEEPER"] = "yes"
    reply.send(ask(context))

def main():
    context = mp.get_context("forkserver")
    os.environ["GONE"] = "at the template's start"
    ask(context)
    template = _forkserver._forkserver_pid
    assert template is not None
    os.environ["WEFT_TEST"] = "\\udcff\\u00e4"
    del os.environ["GONE"]
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    os.umask(0o027)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN + 3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.argv.append("more")
    sys.path.append("/nowhere")
    expected = ask(mp.get_context("fork"))
    seen = ask(context)
    for name, value in expected.items():
        assert seen[name] == value, (name, seen[name], value)
    assert seen["raw environ"] == b"\\xff\\xc3\\xa4\\n"
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=grandchild, args=(writer,))
    process.start()
    seen = reader.recv()
    process.join()
    assert seen.pop("environ") == expected["environ"] | {"DEEPER": "yes"}
    assert all(seen[name] == expected[name] for name in seen), seen
    assert _forkserver._forkserver_pid == template
    print("the same")
"""


def test_all_of_it(tmp_path):
    assert prints(tmp_path, CODE) == ["the same"]


def test_what_the_main_module_set_in_the_template_is_not_left_over(tmp_path):
    code = """
    os.environ["SET_BY_MAIN"] = __name__

    def look():
        print(os.environ["SET_BY_MAIN"], os.environ.get("LATER"))

    def main():
        os.environ["LATER"] = "1"
        process = mp.get_context("forkserver").Process(target=look)
        process.start()
        process.join()
    """
    assert prints(tmp_path, code) == ["__main__ 1"]


def test_the_signal_mask_is_that_of_the_starting_thread(tmp_path):
    code = """
    def look():
        print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    def run():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        start()

    def start():
        process = mp.get_context("forkserver").Process(target=look)
        process.start()
        process.join()

    def main():
        start()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        start()
    """
    assert prints(tmp_path, code) == ["[]", "[<Signals.SIGUSR2: 12>]", "[]"]


def test_ctrl_c_reaches_a_child_as_everywhere(tmp_path):
    code = """
    def wait(ready):
        try:
            ready.send(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
            time.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted")

    def main():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for method in METHODS:
            reader, writer = mp.Pipe(duplex=False)
            process = mp.get_context(method).Process(target=wait, args=(writer,))
            process.start()
            assert reader.recv(), method
            process.interrupt()
            process.join()
            assert process.exitcode == 0
        os.kill(_forkserver._forkserver_pid, signal.SIGINT)
        process = mp.get_context("forkserver").Process(target=print, args=("alive",))
        process.start()
        process.join()
    """
    # A background job inherits SIGINT ignored; the programs that spawn starts then ignore it, too.
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert prints(tmp_path, code) == ["interrupted"] * 3 + ["alive"]
    finally:
        signal.signal(signal.SIGINT, before)
