package target

import (
	"encoding/binary"
	"fmt"
)

// decodeARM64 finds where probes go in a function that Go compiled for arm64, as offsets into its code.
//
// It begins with one of these (cmd/internal/obj/arm64, stacksplit), R28 being g and 16(R28) its stack guard:
//
//	MOVD 16(R28), R16; CMP R16, RSP                    frames up to 128 bytes
//	MOVD 16(R28), R16; SUB $N, RSP, R17; CMP R16, R17  frames up to 4 KiB
//
// and then BLS more. What follows is the first instruction of the frame: neither RSP nor an argument was touched.
// Every instruction has 4 bytes, so the few that matter are told by their bits (Arm ARM, C4), without decoding the rest.
func decodeARM64(code []byte) (enter int, returns []int, err error) {
	words := make([]uint32, len(code)/4)
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(code[i*4:])
	}
	enter, err = afterCheck(words)
	if err != nil {
		return 0, nil, err
	}
	frameEnds := false
	for i, w := range words {
		switch {
		case w&0xfffffc1f == 0xd65f0000: // RET
			if w != 0xd65f03c0 || !frameEnds {
				return 0, nil, fmt.Errorf("%w: the one at +%#x does not end a frame", errGoReturns, i*4)
			}
			returns = append(returns, i*4)
			frameEnds = false
		case w&0xfc000000 == 0x14000000: // B
			if to := i + int(int32(w<<6)>>6); to < 0 || to >= len(words) {
				return 0, nil, fmt.Errorf("%w: a jump leads to %+#x", errGoReturns, to*4)
			}
			frameEnds = false
		case w&0xffe00fff == 0xf84007fe || w&0xff8003ff == 0x910003ff: // MOVD.P N(RSP), R30 or ADD $N, RSP
			frameEnds = true
		case w == 0xd503201f: // NOOP
		default:
			frameEnds = false
		}
	}
	if len(returns) == 0 {
		return 0, nil, errGoReturns
	}
	return enter * 4, returns, nil
}

// afterCheck is the index of the first instruction behind the stack check.
func afterCheck(words []uint32) (int, error) {
	const loadGuard, compareSP, compareR17 = 0xf9400b90, 0xeb3063ff, 0xeb10023f
	isSubtraction := func(w uint32) bool { return w&0xff8003ff == 0xd10003f1 } // SUB $N, RSP, R17
	at := 0
	switch {
	case len(words) >= 4 && words[0] == loadGuard && words[1] == compareSP:
		at = 2
	case len(words) >= 5 && words[0] == loadGuard && isSubtraction(words[1]) && words[2] == compareR17:
		at = 3
	default:
		return 0, errGoPrologue
	}
	branch := words[at]
	distance := int(int32(branch<<8) >> 13)
	if branch&0xff00001f != 0x54000009 || distance <= 0 || at+distance >= len(words) {
		return 0, errGoPrologue
	}
	return at + 1, nil
}
