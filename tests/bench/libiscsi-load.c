/* Load on a LUN by libiscsi: one session, one thread, as programs use the library. Built by `make bench-iscsi`.
 *
 *   libiscsi-load iscsi://host:port/iqn/lun read|write|randread|randwrite BYTES DEPTH SECONDS [fua]
 *
 * `write` overwrites the LUN. Prints the same line of JSON as the example `load` of the agent. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define BUCKETS 200000 /* latencies by microsecond */

struct slot {
	unsigned char *buffer;
	double begun;
};

static struct iscsi_context *session;
static int lun, writes, at_random, fua, stopping;
static uint32_t bytes, block;
static uint64_t places, next_place, dice = 0x9e3779b97f4a7c15;
static uint64_t done, failed;
static uint32_t latencies[BUCKETS];
static unsigned open_tasks;
static unsigned char *payload;

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_seconds(void)
{
	struct rusage use;
	getrusage(RUSAGE_SELF, &use);
	return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what)
{
	fprintf(stderr, "FAILED: %s: %s\n", what, iscsi_get_error(session));
	exit(1);
}

static void issue(struct slot *slot);

static void ended(struct iscsi_context *context, int status, void *data, void *private)
{
	struct slot *slot = private;
	uint64_t us = (seconds() - slot->begun) * 1e6;

	(void)context;
	latencies[us < BUCKETS ? us : BUCKETS - 1]++;
	done++;
	failed += status != SCSI_STATUS_GOOD;
	open_tasks--;
	scsi_free_scsi_task(data);
	if (!stopping)
		issue(slot);
}

static void issue(struct slot *slot)
{
	struct scsi_task *task;
	uint64_t place;

	if (at_random) {
		dice ^= dice << 13;
		dice ^= dice >> 7;
		dice ^= dice << 17;
		place = dice % places;
	} else {
		place = next_place++ % places;
	}
	slot->begun = seconds();
	if (writes) {
		task = iscsi_write16_task(session, lun, place * (bytes / block), payload, bytes, block, 0, 0, fua, 0, 0,
					  ended, slot);
	} else {
		task = iscsi_read16_task(session, lun, place * (bytes / block), bytes, block, 0, 0, 0, 0, 0, ended, slot);
		if (task)
			scsi_task_add_data_in_buffer(task, bytes, slot->buffer);
	}
	if (!task)
		fail("a command was not taken");
	open_tasks++;
}

static uint64_t percentile(double share)
{
	uint64_t seen = 0, at;

	for (at = 0; at < BUCKETS - 1; at++) {
		seen += latencies[at];
		if (seen >= done * share)
			break;
	}
	return at;
}

int main(int count, char **word)
{
	struct iscsi_url *url;
	struct scsi_task *task;
	struct scsi_readcapacity16 *capacity;
	struct slot *slots;
	unsigned depth, i;
	double limit, start, elapsed, cpu;

	if (count < 6) {
		fprintf(stderr, "usage: see the head of the source\n");
		return 2;
	}
	session = iscsi_create_context("iqn.2026-01.io.twinsite:libiscsi-load");
	url = iscsi_parse_full_url(session, word[1]);
	if (!url)
		fail("address");
	writes = strstr(word[2], "write") != NULL;
	at_random = strncmp(word[2], "rand", 4) == 0;
	bytes = atoi(word[3]);
	depth = atoi(word[4]);
	limit = atof(word[5]);
	fua = count > 6 && strcmp(word[6], "fua") == 0;
	lun = url->lun;
	iscsi_set_session_type(session, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(session, ISCSI_HEADER_DIGEST_NONE);
	iscsi_set_targetname(session, url->target);
	if (iscsi_full_connect_sync(session, url->portal, lun))
		fail("login");
	task = iscsi_readcapacity16_sync(session, lun);
	capacity = task ? scsi_datain_unmarshall(task) : NULL;
	if (!capacity)
		fail("capacity");
	block = capacity->block_length;
	places = (capacity->returned_lba + 1) / (bytes / block);
	dice ^= (uint64_t)(seconds() * 1e9);

	payload = malloc(bytes);
	for (i = 0; i < bytes; i++)
		payload[i] = rand();
	slots = calloc(depth, sizeof *slots);
	cpu = cpu_seconds();
	start = seconds();
	for (i = 0; i < depth; i++) {
		slots[i].buffer = malloc(bytes);
		issue(&slots[i]);
	}
	while (open_tasks) {
		struct pollfd wait = { iscsi_get_fd(session), iscsi_which_events(session), 0 };

		if (poll(&wait, 1, 10000) <= 0)
			fail("no answer");
		if (iscsi_service(session, wait.revents) < 0)
			fail("session");
		stopping = seconds() - start >= limit;
	}
	elapsed = seconds() - start;
	cpu = cpu_seconds() - cpu;
	printf("{\"iops\":%.0f,\"p50_us\":%lu,\"p99_us\":%lu,\"cpu_us\":%.3f,\"errors\":%lu}\n", done / elapsed,
	       (unsigned long)percentile(0.5), (unsigned long)percentile(0.99), cpu * 1e6 / done, (unsigned long)failed);
	iscsi_logout_sync(session);
	return 0;
}
