/* Prints, as Rust constants, the layout of what a switch saves. Compiled and run by build.rs against
   the headers of the interpreter that the extension is built for. */

#define Py_BUILD_CORE 1
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#include "pycore_code.h"
#include "pycore_frame.h"
#include "pycore_runtime.h"

#define FIELD(name, type, field) \
    printf("pub(crate) const %s: usize = %zu;\n", name, offsetof(type, field))
#define VALUE(name, value) printf("pub(crate) const %s: usize = %zu;\n", name, (size_t)(value))

int main(void)
{
#ifdef Py_GIL_DISABLED
    VALUE("GIL_DISABLED", 1);
#else
    VALUE("GIL_DISABLED", 0);
#endif
    VALUE("HEADER_VERSION", PY_VERSION_HEX);
    FIELD("TS_ID", PyThreadState, id);
    FIELD("TS_EXC_INFO", PyThreadState, exc_info);
    FIELD("TS_EXC_STATE", PyThreadState, exc_state);
    FIELD("TS_CONTEXT", PyThreadState, context);
    FIELD("TS_CONTEXT_VER", PyThreadState, context_ver);
    FIELD("TS_DATASTACK_CHUNK", PyThreadState, datastack_chunk);
    FIELD("TS_DATASTACK_TOP", PyThreadState, datastack_top);
    FIELD("TS_DATASTACK_LIMIT", PyThreadState, datastack_limit);
    FIELD("EXC_VALUE", _PyErr_StackItem, exc_value);
    FIELD("EXC_PREVIOUS", _PyErr_StackItem, previous_item);
    FIELD("CHUNK_PREVIOUS", _PyStackChunk, previous);
    FIELD("CHUNK_SIZE", _PyStackChunk, size);
    FIELD("CHUNK_TOP", _PyStackChunk, top);
    FIELD("CHUNK_DATA", _PyStackChunk, data);

    FIELD("FRAME_PREVIOUS", _PyInterpreterFrame, previous);
    FIELD("FRAME_LOCALS", _PyInterpreterFrame, f_locals);
    FIELD("FRAME_OBJECT", _PyInterpreterFrame, frame_obj);
    FIELD("FRAME_OWNER", _PyInterpreterFrame, owner);
    FIELD("FRAME_STACKTOP", _PyInterpreterFrame, stacktop);
    FIELD("FRAME_LOCALSPLUS", _PyInterpreterFrame, localsplus);
    FIELD("CODE_NLOCALSPLUS", PyCodeObject, co_nlocalsplus);
    FIELD("CODE_STACKSIZE", PyCodeObject, co_stacksize);
    FIELD("FRAMEOBJECT_BACK", PyFrameObject, f_back);
    FIELD("FRAMEOBJECT_FRAME", PyFrameObject, f_frame);
    FIELD("FRAMEOBJECT_DATA", PyFrameObject, _f_frame_data);
    VALUE("OWNED_BY_THREAD", FRAME_OWNED_BY_THREAD);
    VALUE("OWNED_BY_FRAME_OBJECT", FRAME_OWNED_BY_FRAME_OBJECT);
#if PY_VERSION_HEX < 0x030D0000
    FIELD("FRAME_CODE", _PyInterpreterFrame, f_code);
    FIELD("FRAME_INSTRUCTION", _PyInterpreterFrame, prev_instr);
#else
    FIELD("FRAME_CODE", _PyInterpreterFrame, f_executable);
    FIELD("FRAME_INSTRUCTION", _PyInterpreterFrame, instr_ptr);
#endif
    FIELD("CODE_INSTRUCTIONS", PyCodeObject, co_code_adaptive);
#if PY_VERSION_HEX < 0x030C0000
    FIELD("FRAME_FUNCTION", _PyInterpreterFrame, f_func);
#else
    FIELD("FRAME_FUNCTION", _PyInterpreterFrame, f_funcobj);
#endif

#if PY_VERSION_HEX < 0x030D0000
    FIELD("TS_CFRAME", PyThreadState, cframe);
    FIELD("TS_ROOT_CFRAME", PyThreadState, root_cframe);
    FIELD("CFRAME_CURRENT_FRAME", _PyCFrame, current_frame);
    FIELD("CFRAME_PREVIOUS", _PyCFrame, previous);
    VALUE("CFRAME_SIZE", sizeof(_PyCFrame));
#else
    FIELD("TS_CURRENT_FRAME", PyThreadState, current_frame);
    FIELD("TS_DELETE_LATER", PyThreadState, delete_later);
#endif

#if PY_VERSION_HEX < 0x030C0000
    FIELD("RUNTIME_TSTATE_CURRENT", _PyRuntimeState, gilstate.tstate_current);
    FIELD("TS_RECURSION_REMAINING", PyThreadState, recursion_remaining);
    FIELD("TS_RECURSION_LIMIT", PyThreadState, recursion_limit);
    FIELD("TS_TRASH_NESTING", PyThreadState, trash_delete_nesting);
    FIELD("TS_TRACING", PyThreadState, tracing);
    FIELD("TS_C_TRACEFUNC", PyThreadState, c_tracefunc);
    FIELD("TS_C_PROFILEFUNC", PyThreadState, c_profilefunc);
    FIELD("CFRAME_USE_TRACING", _PyCFrame, use_tracing);
#else
    FIELD("TS_PY_RECURSION_REMAINING", PyThreadState, py_recursion_remaining);
    FIELD("TS_PY_RECURSION_LIMIT", PyThreadState, py_recursion_limit);
    FIELD("TS_C_RECURSION_REMAINING", PyThreadState, c_recursion_remaining);
#if PY_VERSION_HEX < 0x030D0000
    FIELD("TS_TRASH_NESTING", PyThreadState, trash.delete_nesting);
    VALUE("C_RECURSION_LIMIT", C_RECURSION_LIMIT);
#else
    VALUE("C_RECURSION_LIMIT", Py_C_RECURSION_LIMIT);
#endif
#endif
    return 0;
}
