/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Registers of Go's ABIInternal, at a probe: integer arguments and results, and the current goroutine. */
#ifndef SPILE_GOREGS_H
#define SPILE_GOREGS_H

#if defined(__TARGET_ARCH_x86)
#define GO_ARG1(ctx) ((ctx)->ax)
#define GO_ARG2(ctx) ((ctx)->bx)
#define GO_ARG3(ctx) ((ctx)->cx)
#define GO_G(ctx) ((ctx)->r14)
#elif defined(__TARGET_ARCH_arm64)
#define GO_ARG1(ctx) (((struct user_pt_regs *)(ctx))->regs[0])
#define GO_ARG2(ctx) (((struct user_pt_regs *)(ctx))->regs[1])
#define GO_ARG3(ctx) (((struct user_pt_regs *)(ctx))->regs[2])
#define GO_G(ctx) (((struct user_pt_regs *)(ctx))->regs[28])
#endif

#endif
