/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Uprobes run preemptible, and from Linux 6.13 on programs may keep their stack per processor: a second thread in the same
 * program would write over the first one's. The kernel lends the switch (6.10); before that stacks are the task's own.
 */
#ifndef SPILE_PREEMPT_H
#define SPILE_PREEMPT_H

extern void bpf_preempt_disable(void) __weak __ksym;
extern void bpf_preempt_enable(void) __weak __ksym;

static __always_inline void hold_cpu(void)
{
	if (&bpf_preempt_disable)
		bpf_preempt_disable();
}

static __always_inline void release_cpu(void)
{
	if (&bpf_preempt_enable)
		bpf_preempt_enable();
}

#endif
