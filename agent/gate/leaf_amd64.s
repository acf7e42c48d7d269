#include "textflag.h"

TEXT ·pushed(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ BP
	POPQ BP
	RET

TEXT ·moved(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ AX, AX
	RET

TEXT ·places(SB), NOSPLIT, $0-16
	LEAQ ·pushed(SB), AX
	MOVQ AX, pushed+0(FP)
	LEAQ ·moved(SB), AX
	MOVQ AX, moved+8(FP)
	RET
