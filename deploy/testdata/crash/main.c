/*
 * Calls its libssl for a while, and then does what its argument says:
 *
 *	check   nothing; but the library raises SIGTRAP where it finds a breakpoint in its code
 *	clean   nothing
 *	on      nothing, and goes on when it is probed
 *	own     writes to address 0, in no call
 *	inside  writes to address 0 inside a call
 *	traps   hits a breakpoint of its own inside a call
 *	copies  moves its code to other memory, as programs do that want it on huge pages, and calls it there
 *	abort   aborts
 *	wait    waits for the end of its input inside a call
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int SSL_write(void *ssl, const void *buf, int num);
int SSL_read(void *ssl, void *buf, int num);
int is_probed(void);
extern int looks_at_itself, dies_inside, traps_inside;

#define PERIOD_US 2000

/* Puts a copy of the page that a function lies in where the page was. Breakpoints of probes are copied, too. */
static void move_code(void *function)
{
	size_t size = sysconf(_SC_PAGESIZE);
	void *page = (void *)((uintptr_t)function & ~(size - 1));
	void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy == MAP_FAILED)
		exit(3);
	memcpy(copy, page, size);
	if (mprotect(copy, size, PROT_READ | PROT_EXEC) ||
	    mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED)
		exit(3);
}

int main(int argc, char **argv)
{
	const char *how = argv[1];
	int calls = atoi(argv[2]), forever = !strcmp(how, "on"), ssl[64] = {0}, probed = 0;
	char buf[16];

	if (argc != 3)
		return 2;
	looks_at_itself = !strcmp(how, "check");
	/* Until it is probed, if that ever happens, and for a few calls more. */
	for (int i = 0; i < calls && (probed < 20 || forever); i++) {
		SSL_write(ssl, "hello", 5);
		probed += is_probed();
		usleep(PERIOD_US);
	}
	puts(probed ? "probed" : "not probed");
	fflush(stdout);
	if (!strcmp(how, "own"))
		*(volatile int *)0 = 1;
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "wait"))
		SSL_read(ssl, buf, sizeof(buf));
	dies_inside = !strcmp(how, "inside");
	traps_inside = !strcmp(how, "traps");
	if (!strcmp(how, "copies"))
		move_code(SSL_write);
	SSL_write(ssl, "bye", 3);
	return 0;
}
