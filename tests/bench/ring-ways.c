/* What the ways of io_uring cost an end that answers one message at a time (docs/bench-iscsi.md): the floor under a data thread.
 *
 *   cc -O2 -o ring-ways tests/bench/ring-ways.c -luring -lpthread && ./ring-ways WAY REQUEST RESPONSE SECONDS
 *
 * WAY: `block` (read and write, no ring), `poll` (no ring either, a poll before each read), or `ring` with any of
 *   +poll      the receive waits for bytes before it looks for them (IORING_RECVSEND_POLL_FIRST)
 *   +multi     one receive stays armed, buffers are provided (multishot)
 *   +send      the answer goes out by the entry that waits for the next message, not by a system call of its own
 *   +limit     each wait has a time limit
 *   +clock     one timeout stays in the ring instead
 *   +both      the client waits in a ring of its own, too: neither end is woken with the hint that its waker will sleep
 * A client thread with read and write asks over loopback TCP. Prints exchanges a second, the time of one, and the server's CPU. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM (1 << 19)
#define BUFFERS 64
#define BUFFER (16 << 10)
enum { RECEIVED = 1, SENT = 2 };

static int listener;
static size_t request, response;
static const char *way;
static double server_cpu;

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long by_blocking(int socket, char *in, char *out)
{
	long done = 0;
	size_t got = 0;

	for (;; done++, got = 0) {
		while (got < request) {
			struct pollfd wait = { socket, POLLIN, 0 };
			if (*way == 'p')
				poll(&wait, 1, -1);
			ssize_t n = read(socket, in + got, request - got);
			if (n <= 0)
				return done;
			got += n;
		}
		if (write(socket, out, response) != (ssize_t)response)
			return done;
	}
}

static struct io_uring_buf_ring *provide(struct io_uring *ring, char *pool)
{
	int error;
	struct io_uring_buf_ring *buffers;
	struct io_uring_buf_reg area = { .ring_entries = BUFFERS };

	if (posix_memalign((void **)&buffers, 4096, 4096))
		fail("memory");
	memset(buffers, 0, 4096);
	area.ring_addr = (unsigned long)buffers;
	error = io_uring_register_buf_ring(ring, &area, 0);
	if (error)
		fail("provided buffers");
	io_uring_buf_ring_init(buffers);
	for (int i = 0; i < BUFFERS; i++)
		io_uring_buf_ring_add(buffers, pool + i * BUFFER, BUFFER, i, BUFFERS - 1, i);
	io_uring_buf_ring_advance(buffers, BUFFERS);
	return buffers;
}

static long by_ring(int socket, char *in, char *out)
{
	int poll_first = strstr(way, "+poll") != NULL, multi = strstr(way, "+multi") != NULL;
	int send = strstr(way, "+send") != NULL, limit = strstr(way, "+limit") != NULL;
	struct __kernel_timespec clock = { 3600, 0 };
	struct io_uring ring;
	struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
	struct io_uring_buf_ring *buffers = NULL;
	char *pool = malloc(BUFFERS * BUFFER);
	size_t got = 0;
	long done = 0;
	int armed = 0, sending = 0;

	if (io_uring_queue_init_params(256, &ring, &params))
		fail("io_uring");
	if (multi)
		buffers = provide(&ring, pool);
	if (strstr(way, "+clock"))
		io_uring_prep_timeout(io_uring_get_sqe(&ring), &clock, 0, IORING_TIMEOUT_BOOTTIME);
	for (;;) {
		struct io_uring_cqe *end;
		struct __kernel_timespec time = { 5, 0 };
		unsigned head, count = 0;

		if (!armed) {
			struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
			if (multi) {
				io_uring_prep_recv_multishot(entry, socket, NULL, 0, 0);
				entry->flags |= IOSQE_BUFFER_SELECT;
			} else {
				io_uring_prep_recv(entry, socket, in + got, ROOM - got, 0);
			}
			if (poll_first)
				entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
			entry->user_data = RECEIVED;
			armed = 1;
		}
		if (limit)
			io_uring_submit_and_wait_timeout(&ring, &end, 1 + sending, &time, NULL);
		else
			io_uring_submit_and_wait(&ring, 1 + sending);
		io_uring_for_each_cqe(&ring, head, end) {
			count++;
			if (end->user_data == SENT) {
				sending = 0;
				continue;
			}
			if (end->res <= 0)
				return done;
			got += end->res;
			if (multi) {
				int n = end->flags >> IORING_CQE_BUFFER_SHIFT;
				io_uring_buf_ring_add(buffers, pool + n * BUFFER, BUFFER, n, BUFFERS - 1, 0);
				io_uring_buf_ring_advance(buffers, 1);
			}
			armed = multi && (end->flags & IORING_CQE_F_MORE);
		}
		io_uring_cq_advance(&ring, count);
		for (; got >= request; got -= request, done++) {
			if (send) {
				struct io_uring_sqe *entry = io_uring_get_sqe(&ring);
				io_uring_prep_send(entry, socket, out, response, MSG_WAITALL | MSG_NOSIGNAL);
				entry->user_data = SENT;
				sending = 1;
			} else if (write(socket, out, response) != (ssize_t)response) {
				return done;
			}
		}
	}
}

static void *serve(void *unused)
{
	int one = 1, socket = accept(listener, NULL, NULL);
	char *in = malloc(ROOM), *out = calloc(1, ROOM);
	double before = seconds(CLOCK_THREAD_CPUTIME_ID);
	long done;

	(void)unused;
	setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	done = strncmp(way, "ring", 4) ? by_blocking(socket, in, out) : by_ring(socket, in, out);
	server_cpu = (seconds(CLOCK_THREAD_CPUTIME_ID) - before) / (done ? done : 1);
	close(socket);
	return NULL;
}

int main(int count, char **word)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t length = sizeof address;
	char *buffer = calloc(1, ROOM);
	int one = 1, socket_;
	pthread_t server;
	double limit, start, elapsed;
	long done = 0;

	if (count < 5) {
		fprintf(stderr, "usage: see the head of the source\n");
		return 2;
	}
	way = word[1];
	request = atoi(word[2]);
	response = atoi(word[3]);
	limit = atof(word[4]);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1) ||
	    getsockname(listener, (void *)&address, &length))
		fail("listen");
	if (pthread_create(&server, NULL, serve, NULL))
		fail("thread");
	socket_ = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(socket_, (void *)&address, length))
		fail("connect");
	setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct io_uring ring;
	struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN };
	int both = strstr(way, "+both") != NULL;
	if (both && io_uring_queue_init_params(8, &ring, &params))
		fail("io_uring");
	start = seconds(CLOCK_MONOTONIC);
	while (seconds(CLOCK_MONOTONIC) - start < limit) {
		if (write(socket_, buffer, request) != (ssize_t)request)
			fail("write");
		for (size_t got = 0; got < response;) {
			ssize_t n;
			if (both) {
				struct io_uring_cqe *end;
				io_uring_prep_recv(io_uring_get_sqe(&ring), socket_, buffer + got, response - got, 0);
				io_uring_submit_and_wait(&ring, 1);
				if (io_uring_peek_cqe(&ring, &end))
					continue;
				n = end->res;
				io_uring_cqe_seen(&ring, end);
			} else {
				n = read(socket_, buffer + got, response - got);
			}
			if (n <= 0)
				fail("read");
			got += n;
		}
		done++;
	}
	elapsed = seconds(CLOCK_MONOTONIC) - start;
	shutdown(socket_, SHUT_RDWR);
	pthread_join(server, NULL);
	printf("%-18s %8.0f/s  %6.2f us  server CPU %.2f us\n", way, done / elapsed, elapsed * 1e6 / done, server_cpu * 1e6);
	return 0;
}
