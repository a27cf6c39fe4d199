/* The load of the echo scenarios, the same for every server.
 *
 *     echo_load PORT PID CONNECTIONS SIZE SECONDS [IDLE]
 *
 * Keeps one message of SIZE bytes on its way in each of the CONNECTIONS, and prints messages a second and which share of a
 * processor the server PID used meanwhile. With IDLE it then opens so many connections more, over which nothing
 * passes, and prints the same again.
 *
 * It has to be quicker than any server, so that it is the server which is measured: it never sleeps, so that nobody has to
 * wake it; once the first answer of each connection was compared, it has the kernel throw away what comes instead of copying
 * it; and large messages are sent from a file in memory, without a copy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { LARGE = 64 << 10, EVENTS = 256, GREETED = 200 };

struct loaded {
    int descriptor;
    size_t sent, got; /* of its message */
};

static int port;
static size_t size;
static char *message, *answer;
static int file; /* has the message */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) < 0)
        fail("clock_gettime: the server has gone");
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* A connection that leaves nothing behind when it is closed: its port is free at once. */
static int connected(void)
{
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    int on = 1;
    if (descriptor < 0 || setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &none, sizeof none) < 0
        || setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0
        || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return descriptor;
}

/* One message there and back, while nothing else is on its way: the server has taken in what was connected before. */
static void greet(int descriptor)
{
    size_t sent = 0, got = 0;
    while (got < size) {
        if (sent < size) {
            ssize_t now = send(descriptor, message + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (now < 0 && errno != EAGAIN)
                fail("send");
            sent += now > 0 ? now : 0;
        }
        ssize_t now = recv(descriptor, answer + got, size - got, sent < size ? MSG_DONTWAIT : 0);
        if (now == 0 || (now < 0 && errno != EAGAIN))
            fail("recv");
        got += now > 0 ? now : 0;
    }
    if (memcmp(answer, message, size) != 0) {
        fprintf(stderr, "an answer is not what was sent\n");
        exit(1);
    }
}

/* Sends what there is room for. */
static void push(struct loaded *loaded)
{
    while (loaded->sent < size) {
        ssize_t now;
        if (size > LARGE) {
            off_t from = loaded->sent;
            now = sendfile(loaded->descriptor, file, &from, size - loaded->sent);
        } else {
            now = send(loaded->descriptor, message + loaded->sent, size - loaded->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        if (now < 0) {
            if (errno == EAGAIN)
                return;
            fail("send");
        }
        loaded->sent += now;
    }
}

/* Takes what has come, and begins anew when that was all of a message; how many were. */
static unsigned long pull(struct loaded *loaded)
{
    unsigned long whole = 0;
    for (;;) {
        size_t wanted = size - loaded->got;
        ssize_t now = recv(loaded->descriptor, NULL, wanted, MSG_TRUNC | MSG_DONTWAIT);
        if (now <= 0) {
            if (now < 0 && errno == EAGAIN)
                return whole;
            fail("recv: the server has ended a connection");
        }
        loaded->got += now;
        if (loaded->got < size)
            continue;
        /* Nothing more can come before more is sent. */
        whole++;
        loaded->got = loaded->sent = 0;
        push(loaded);
        return whole;
    }
}

/* Turns the messages over for so long; how many there were. */
static unsigned long turn_over(int set, double for_seconds, double *took)
{
    double begin = seconds(CLOCK_MONOTONIC);
    unsigned long count = 0;
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(set, events, EVENTS, 0);
        for (int index = 0; index < ready; index++) {
            struct loaded *loaded = events[index].data.ptr;
            push(loaded);
            count += pull(loaded);
        }
        *took = seconds(CLOCK_MONOTONIC) - begin;
        if (*took > for_seconds)
            return count;
    }
}

static void measure(int set, clockid_t server, double for_seconds)
{
    double took;
    turn_over(set, for_seconds / 4, &took); /* warm */
    double used = seconds(server);
    unsigned long count = turn_over(set, for_seconds, &took);
    used = seconds(server) - used;
    printf("%.1f %.3f\n", count / took, used / took);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    if (count < 6 || count > 7) {
        fprintf(stderr, "usage: %s PORT PID CONNECTIONS SIZE SECONDS [IDLE]\n", arguments[0]);
        return 2;
    }
    port = atoi(arguments[1]);
    clockid_t server;
    if ((errno = clock_getcpuclockid(atoi(arguments[2]), &server)) != 0)
        fail("clock_getcpuclockid");
    int connections = atoi(arguments[3]);
    size = strtoul(arguments[4], NULL, 10);
    double for_seconds = atof(arguments[5]);
    int idle = count > 6 ? atoi(arguments[6]) : 0;

    message = malloc(size);
    answer = malloc(size);
    struct loaded *all = calloc(connections, sizeof *all);
    int set = epoll_create1(EPOLL_CLOEXEC);
    file = memfd_create("message", MFD_CLOEXEC);
    if (message == NULL || answer == NULL || all == NULL || set < 0 || file < 0)
        fail("no room for the load");
    for (size_t index = 0; index < size; index++)
        message[index] = (char)(index * 31 + index / 251);
    for (size_t written = 0; written < size;) {
        ssize_t now = write(file, message + written, size - written);
        if (now < 0)
            fail("write");
        written += now;
    }
    for (int index = 0; index < connections; index++) {
        all[index].descriptor = connected();
        greet(all[index].descriptor);
        /* sendfile() has no flag for it. */
        if (fcntl(all[index].descriptor, F_SETFL, O_NONBLOCK) < 0)
            fail("fcntl");
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[index]};
        if (epoll_ctl(set, EPOLL_CTL_ADD, all[index].descriptor, &event) < 0)
            fail("epoll_ctl");
    }
    for (int index = 0; index < connections; index++)
        push(&all[index]);
    measure(set, server, for_seconds);
    if (idle > 0) {
        /* Not so many at once that the server's backlog runs over. */
        for (int index = 1; index <= idle; index++) {
            int descriptor = connected();
            if (index % GREETED == 0 || index == idle)
                greet(descriptor);
        }
        measure(set, server, for_seconds);
    }
    return 0;
}
