#include "textflag.h"

// A branch: arm64 emulates those, and steps what a push would be there.
TEXT ·pushed(SB), NOSPLIT|NOFRAME, $0-0
	B next
next:
	RET

TEXT ·stepped(SB), NOSPLIT|NOFRAME, $0-0
	TST R0, R0
	RET

TEXT ·places(SB), NOSPLIT, $0-16
	MOVD $·pushed(SB), R0
	MOVD R0, pushed+0(FP)
	MOVD $·stepped(SB), R0
	MOVD R0, stepped+8(FP)
	RET
