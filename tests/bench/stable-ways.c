/* What the ways of making 4 KiB writes stable cost one thread with several under way (docs/bench-iscsi.md): the floor under a unit
 * that syncs before it answers.
 *
 *   cc -O2 -o stable-ways tests/bench/stable-ways.c -luring && ./stable-ways FILE WAY SLOTS DEPTH SECONDS
 *
 * WAY: `cache`   page cache at once, then a sync by the ring for all that wait, SLOTS at a time
 *      `thread`  as `cache`, but the thread itself waits in fdatasync
 *      `dsync`   the thread itself writes with RWF_DSYNC
 *      `direct`  O_DIRECT by the ring, then a sync as in `cache`
 *      `ddsync`  O_DIRECT by the ring with RWF_DSYNC
 * FILE is overwritten at random; it must exist and be written all over. Prints writes a second, the time of one at this depth, and
 * the CPU of all threads. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define MOST 256
enum { WRITE = 1000, SYNC = 2000 };

static struct io_uring ring;
static int fds[8], slots, direct;
static char *buffer;
static long places;
static unsigned long seed = 88172645463325252UL;
static int waiting[MOST], waits;
static int batch[8][MOST], batches[8], busy[8];
static long done;

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static long place(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (long)(seed % places) * BLOCK;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return fprintf(stderr, "FILE WAY SLOTS DEPTH SECONDS\n"), 2;
	const char *way = argv[2];
	slots = atoi(argv[3]);
	int depth = atoi(argv[4]);
	double limit = atof(argv[5]);
	direct = way[0] == 'd' && strcmp(way, "dsync");
	int by_thread = !strcmp(way, "thread"), dsync = !strcmp(way, "dsync"), ddsync = !strcmp(way, "ddsync");
	struct stat st;
	int data = open(argv[1], O_RDWR | (direct ? O_DIRECT : 0));
	if (data < 0 || fstat(data, &st))
		fail("open");
	places = st.st_size / BLOCK;
	for (int i = 0; i < slots; i++)
		fds[i] = open(argv[1], O_RDWR);
	if (posix_memalign((void **)&buffer, BLOCK, BLOCK * MOST))
		fail("memory");
	memset(buffer, 0x5a, BLOCK * MOST);
	struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
	if (io_uring_queue_init_params(512, &ring, &p))
		fail("ring");
	int idle[MOST], idles = 0;
	for (int i = 0; i < depth; i++)
		idle[idles++] = i;
	double start = seconds(CLOCK_MONOTONIC), end = start + limit;
	for (;;) {
		while (idles) {
			int i = idle[--idles];
			char *at = buffer + i * BLOCK;
			if (dsync) {
				struct iovec v = {at, BLOCK};
				if (pwritev2(data, &v, 1, place(), RWF_DSYNC) != BLOCK)
					fail("pwritev2");
				done++;
				waiting[waits++] = i;
			} else if (direct) {
				struct io_uring_sqe *e = io_uring_get_sqe(&ring);
				io_uring_prep_write(e, data, at, BLOCK, place());
				if (ddsync)
					e->rw_flags = RWF_DSYNC;
				io_uring_sqe_set_data64(e, WRITE + i);
			} else {
				if (pwrite(data, at, BLOCK, place()) != BLOCK)
					fail("pwrite");
				waiting[waits++] = i;
			}
		}
		if (seconds(CLOCK_MONOTONIC) > end)
			break;
		if (dsync) {
			memcpy(idle, waiting, waits * sizeof *idle);
			idles = waits;
			waits = 0;
			continue;
		}
		if (by_thread) {
			if (fdatasync(data))
				fail("fdatasync");
			memcpy(idle, waiting, waits * sizeof *idle);
			done += waits;
			idles = waits;
			waits = 0;
			continue;
		}
		for (int s = 0; s < slots && waits; s++)
			if (!busy[s]) {
				struct io_uring_sqe *e = io_uring_get_sqe(&ring);
				io_uring_prep_fsync(e, fds[s], IORING_FSYNC_DATASYNC);
				io_uring_sqe_set_data64(e, SYNC + s);
				memcpy(batch[s], waiting, waits * sizeof *waiting);
				batches[s] = waits;
				busy[s] = 1;
				waits = 0;
			}
		io_uring_submit_and_wait(&ring, 1);
		struct io_uring_cqe *c;
		unsigned head, n = 0;
		io_uring_for_each_cqe(&ring, head, c) {
			n++;
			if (c->res < 0) {
				fprintf(stderr, "%s\n", strerror(-c->res));
				exit(1);
			}
			if (c->user_data >= SYNC) {
				int s = c->user_data - SYNC;
				busy[s] = 0;
				done += batches[s];
				for (int i = 0; i < batches[s]; i++)
					idle[idles++] = batch[s][i];
			} else if (ddsync) {
				done++;
				idle[idles++] = c->user_data - WRITE;
			} else
				waiting[waits++] = c->user_data - WRITE;
		}
		io_uring_cq_advance(&ring, n);
	}
	double took = seconds(CLOCK_MONOTONIC) - start;
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	double cpu = u.ru_utime.tv_sec + u.ru_utime.tv_usec / 1e6 + u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6;
	printf("%-8s slots %d depth %3d: %7.0f/s %7.1f us, CPU %5.1f us\n", way, slots, depth, done / took, took * depth / done * 1e6, cpu / done * 1e6);
	return 0;
}
