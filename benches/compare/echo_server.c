/* The yardstick of the echo scenarios: what the kernel costs a server in C.
 *
 *     echo_server PORT
 *
 * One thread, sockets that do not block, one edge-triggered set. It reads as the other servers do, up to 64 KiB at a
 * time, and a read that brings less was the last one until the next edge. What the kernel has no room for
 * waits with its connection, which is not read meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 64 << 10, EVENTS = 1024, BACKLOG = 1024 };

struct connection {
    int descriptor;
    bool ends;            /* the other side has shut down: a short read does not say that nothing is left */
    char *unsent;         /* CHUNK bytes, made when they are first needed */
    size_t from, to;      /* what of them is still to be sent */
};

static char buffer[CHUNK];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void end(struct connection *connection)
{
    close(connection->descriptor);
    free(connection->unsent);
    free(connection);
}

/* How much of it was sent; -1 if the connection is broken. */
static ssize_t send_some(int descriptor, const char *data, size_t size)
{
    size_t sent = 0;
    while (sent < size) {
        ssize_t now = send(descriptor, data + sent, size - sent, MSG_NOSIGNAL);
        if (now < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN ? (ssize_t)sent : -1;
        }
        sent += now;
    }
    return sent;
}

/* Sends back what there is until the kernel has no more, or no room. False if the connection has ended. */
static bool serve(struct connection *connection)
{
    for (;;) {
        if (connection->from < connection->to) {
            ssize_t sent = send_some(connection->descriptor, connection->unsent + connection->from,
                                     connection->to - connection->from);
            if (sent < 0)
                return false;
            connection->from += sent;
            if (connection->from < connection->to)
                return true;
        }
        ssize_t got = recv(connection->descriptor, buffer, CHUNK, 0);
        if (got == 0)
            return false;
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN;
        }
        ssize_t sent = send_some(connection->descriptor, buffer, got);
        if (sent < 0)
            return false;
        if (sent < got) {
            if (connection->unsent == NULL && (connection->unsent = malloc(CHUNK)) == NULL)
                fail("malloc");
            memcpy(connection->unsent, buffer + sent, got - sent);
            connection->from = 0;
            connection->to = got - sent;
            return true;
        }
        if (got < CHUNK && !connection->ends)
            return true;
    }
}

static void accept_all(int set, int listener)
{
    for (;;) {
        int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            if (errno == EAGAIN)
                return;
            fail("accept4");
        }
        int on = 1;
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *connection = calloc(1, sizeof *connection);
        if (connection == NULL)
            fail("calloc");
        connection->descriptor = descriptor;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = connection};
        if (epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &event) < 0)
            fail("epoll_ctl");
    }
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: %s PORT\n", arguments[0]);
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(atoi(arguments[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int on = 1;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0
        || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0)
        fail("listen");
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) < 0)
        fail("epoll");
    puts("ready C epoll");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(set, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int index = 0; index < ready; index++) {
            struct connection *connection = events[index].data.ptr;
            if (connection == NULL) {
                accept_all(set, listener);
                continue;
            }
            if (events[index].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                connection->ends = true;
            if (!serve(connection))
                end(connection);
        }
    }
}
