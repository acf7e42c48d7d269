#include "textflag.h"

TEXT ·pushed(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ BP
	POPQ BP
	RET

TEXT ·stepped(SB), NOSPLIT|NOFRAME, $0-0
	TESTQ AX, AX
	RET

TEXT ·places(SB), NOSPLIT, $0-16
	LEAQ ·pushed(SB), AX
	MOVQ AX, pushed+0(FP)
	LEAQ ·stepped(SB), AX
	MOVQ AX, stepped+8(FP)
	RET
