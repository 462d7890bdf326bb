/* The least that a target can be: it speaks as much iSCSI as one client needs, on one thread with blocking calls, and takes
 * no time for a command. What a client reaches on it, no target can exceed. Built by `make bench-iscsi`.
 *
 *   floor-target [FILE]      prints `listening on ADDRESS:PORT`; serves one connection after the other
 *
 * Without FILE reads answer what happens to be in memory and writes are dropped. With it each write is in the file, on the
 * disk (O_DSYNC), before it is answered. **It overwrites the file.** */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 48, BUFFER = 1 << 20, ANSWERS = 8 << 20, WINDOW = 128, BLOCK = 512 };

static unsigned char input[BUFFER], answers[ANSWERS];
static size_t answered;
static uint32_t stat_sn;
static int file = -1;
static uint64_t blocks = (256 << 20) / BLOCK;

static uint32_t number(const unsigned char *at)
{
	uint32_t value;
	memcpy(&value, at, 4);
	return ntohl(value);
}

static void put(unsigned char *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, 4);
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* An answer to `asked` with its numbers, and room for data behind it. */
static unsigned char *answer(const unsigned char *asked, int opcode, int flags, uint32_t data)
{
	unsigned char *pdu = answers + answered;
	uint32_t next = number(asked + 24) + !(asked[0] & 0x40);

	if (answered + HEADER + data + 3 > ANSWERS) {
		fprintf(stderr, "more is asked at once than is foreseen\n");
		exit(1);
	}
	memset(pdu, 0, HEADER);
	pdu[0] = opcode;
	pdu[1] = flags;
	put(pdu + 4, data);
	memcpy(pdu + 16, asked + 16, 4);
	put(pdu + 24, stat_sn++);
	put(pdu + 28, next);
	put(pdu + 32, next + WINDOW);
	answered += HEADER + (data + 3) / 4 * 4;
	return pdu;
}

static void login(const unsigned char *asked)
{
	static const char first[] = "TargetPortalGroupTag=1\0AuthMethod=None";
	static const char second[] =
		"HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0MaxBurstLength=1048576\0"
		"FirstBurstLength=262144\0MaxRecvDataSegmentLength=262144\0MaxConnections=1\0MaxOutstandingR2T=1\0"
		"DefaultTime2Wait=2\0DefaultTime2Retain=0\0ErrorRecoveryLevel=0\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes";
	int operational = (asked[1] & 0x0c) == 0x04;
	const char *text = operational ? second : first;
	uint32_t length = operational ? sizeof second : sizeof first;
	unsigned char *pdu = answer(asked, 0x23, asked[1] & 0x8f, length);

	memcpy(pdu + 8, asked + 8, 6);
	pdu[15] = 1;
	/* A login does not advance the numbers. */
	put(pdu + 28, number(asked + 24));
	put(pdu + 32, number(asked + 24) + WINDOW);
	memcpy(pdu + HEADER, text, length);
	memset(pdu + HEADER + length, 0, -length & 3);
}

static void data_in(const unsigned char *asked, uint32_t length, const void *data)
{
	/* Final, with the status in it. */
	unsigned char *pdu = answer(asked, 0x25, 0x81, length);

	put(pdu + 20, 0xffffffff);
	if (data)
		memcpy(pdu + HEADER, data, length);
}

static void command(const unsigned char *asked, uint32_t data)
{
	const unsigned char *cdb = asked + 32;
	uint64_t place;

	memcpy(&place, cdb + 2, 8);
	place = be64toh(place);
	if (cdb[0] == 0x88) {
		data_in(asked, number(cdb + 10) * BLOCK, NULL);
		return;
	}
	if (cdb[0] == 0x9e) {
		unsigned char capacity[32] = {0};
		put(capacity, (blocks - 1) >> 32);
		put(capacity + 4, blocks - 1);
		put(capacity + 8, BLOCK);
		data_in(asked, number(cdb + 10) < 32 ? number(cdb + 10) : 32, capacity);
		return;
	}
	if (cdb[0] == 0x8a && data != number(cdb + 10) * BLOCK) {
		fprintf(stderr, "data that do not come with their command are not foreseen\n");
		exit(1);
	}
	if (cdb[0] == 0x8a && file >= 0 && pwrite(file, asked + HEADER, data, place * BLOCK) != (ssize_t)data)
		fail("write");
	answer(asked, 0x21, 0x80, 0);
}

static void serve(int socket)
{
	size_t held = 0, at, sent;

	stat_sn = 1;
	for (;;) {
		ssize_t got = read(socket, input + held, BUFFER - held);
		if (got <= 0)
			return;
		held += got;
		answered = 0;
		for (at = 0; held - at >= HEADER;) {
			const unsigned char *pdu = input + at;
			uint32_t data = number(pdu + 4) & 0xffffff;
			size_t whole = HEADER + (data + 3) / 4 * 4;

			if (held - at < whole)
				break;
			at += whole;
			switch (pdu[0] & 0x3f) {
			case 0x01: command(pdu, data); break;
			case 0x03: login(pdu); break;
			case 0x06: answer(pdu, 0x26, 0x80, 0); break;
			case 0x00: break;
			default: fprintf(stderr, "PDU %#x is not foreseen\n", pdu[0]); return;
			}
		}
		memmove(input, input + at, held - at);
		held -= at;
		for (sent = 0; sent < answered;) {
			ssize_t step = send(socket, answers + sent, answered - sent, MSG_NOSIGNAL);
			if (step <= 0)
				return;
			sent += step;
		}
	}
}

int main(int count, char **word)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (count > 1) {
		file = open(word[1], O_WRONLY | O_DSYNC);
		if (file < 0)
			fail(word[1]);
		blocks = lseek(file, 0, SEEK_END) / BLOCK;
	}
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		fail("listen");
	printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int socket = accept(listener, NULL, NULL);
		if (socket < 0)
			fail("accept");
		setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		serve(socket);
		close(socket);
	}
}
