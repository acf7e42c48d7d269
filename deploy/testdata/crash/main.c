/*
 * Calls its libssl for a while, and then does what its argument says:
 *
 *	check   nothing; but the library raises SIGTRAP where it finds a breakpoint in its code
 *	clean   nothing
 *	own     writes to address 0, in no call
 *	inside  writes to address 0 inside a call
 *	abort   aborts
 *	wait    waits for the end of its input inside a call
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int SSL_write(void *ssl, const void *buf, int num);
int SSL_read(void *ssl, void *buf, int num);
int is_probed(void);
extern int looks_at_itself, dies_inside;

#define PERIOD_US 2000

int main(int argc, char **argv)
{
	const char *how = argv[1];
	int calls = atoi(argv[2]), ssl[64] = {0}, probed = 0;
	char buf[16];

	if (argc != 3)
		return 2;
	looks_at_itself = !strcmp(how, "check");
	/* Until it is probed, if that ever happens, and for a few calls more. */
	for (int i = 0; i < calls && probed < 20; i++) {
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
	SSL_write(ssl, "bye", 3);
	return 0;
}
