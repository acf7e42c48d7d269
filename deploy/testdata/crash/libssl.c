/*
 * A library with the names of libssl, for programs that die in it. It moves no bytes.
 */
#include <signal.h>
#include <unistd.h>

int looks_at_itself, dies_inside, traps_inside;

#define BREAKPOINT 0xcc /* int3, which a uprobe puts over the first byte of an instruction */
#define LOOKED_AT 16

int SSL_write(void *ssl, const void *buf, int num);

/* Is there a breakpoint at the begin of SSL_write? */
int is_probed(void)
{
	const volatile unsigned char *code = (const volatile unsigned char *)SSL_write;

	for (int i = 0; i < LOOKED_AT; i++)
		if (code[i] == BREAKPOINT)
			return 1;
	return 0;
}

int SSL_write(void *ssl, const void *buf, int num)
{
	if (looks_at_itself && is_probed())
		raise(SIGTRAP);
	if (traps_inside) /* as g_error of GLib does */
#if defined(__x86_64__)
		__asm__ volatile("int3");
#else
		__asm__ volatile("brk #0xf000");
#endif
	if (dies_inside)
		*(volatile int *)0 = num;
	return num;
}

int SSL_read(void *ssl, void *buf, int num)
{
	return read(0, buf, num);
}
