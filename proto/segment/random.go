package segment

// facts is what one pass over a segment finds.
type facts struct {
	digits, lower, upper int
	dashes, dots, colons int // dashes counts '-' and '_'
	at                   int
	digitRun             int // longest run of digits, single '-' and ' ' inside allowed
	hexRun               int // longest run of hex digits that holds letters and digits
	switches             int // changes between letter and digit
	peak                 int // highest value of the detector below, in bits
	token                bool
}

func (s *facts) letters() int { return s.lower + s.upper }
func (s *facts) alnum() int   { return s.lower + s.upper + s.digits }

// Thresholds of the detector, in quarters of a bit; see TestRandomIsMasked and TestNamesStay for what they give.
const (
	alarm       = 22
	mixedAlarm  = 16 // where lower case, upper case and digits are mixed
	foldedAlarm = 13 // where the case was folded
	minRandom   = 16 // characters
	hexSecret   = 16 // hex digits in a row
)

// States of the model of names: what the name was doing when the next character comes.
const (
	wordStart  = iota // at the begin, or after a separator
	lowerStart        // the first or second lower-case letter in a row
	lowerRun          // the third or later
	oneUpper
	upperRun
	oneDigit
	digitsRun
)

// startBits is what the first letter of a word costs; letters that follow cost what bigrams says.
const startBits = 4

// steps is what the next character costs by its class, less the 6 bits that it costs in a random string, in quarters
// of a bit: measured over 64,000 identifiers and package names, and rounded.
var steps = [7][4]int{ // digit, lower, upper, separator
	wordStart:  {6, -6, 0, 0},
	lowerStart: {18, -7, 16, 0},
	lowerRun:   {10, -6, 0, -12},
	oneUpper:   {14, -7, 4, 8},
	upperRun:   {12, 9, -6, -10},
	oneDigit:   {-3, 8, 8, -14},
	digitsRun:  {-3, 8, 8, -14},
}

// random reports whether some stretch of the segment has the look of a key.
func (s *facts) random() bool {
	mixed := s.lower > 0 && s.upper > 0 && s.digits > 0
	return s.hexRun >= hexSecret || s.alnum()+s.dashes >= minRandom && (s.peak >= alarm || mixed && s.peak >= mixedAlarm)
}

// survey walks over a segment once.
//
// Randomness is judged by a cumulative sum (Page, "Continuous inspection schemes", 1954): each character adds what it
// costs to write it next in a model of names, less the 6 bits that it costs in a random string, and the sum never falls
// below 0. Words pull the sum down, random stretches push it up, wherever in the segment they begin.
func survey(b []byte) facts {
	var (
		s          facts
		sum        int
		prev       byte // class of the previous byte
		letter     byte // previous letter, 0..25
		st         = wordStart
		lowers     int
		digitRun   int
		hexLen     int
		hexDigits  int
		utf8Follow int
	)
	for i := 0; i < len(b); i++ {
		c := b[i]
		cl := classes[c]
		if cl <= upper && (i == 0 || prev > upper) && s.startsToken(b[i:]) {
			s.token = true
		}
		if isHex[c] {
			hexLen++
			if cl == digit {
				hexDigits++
			}
			if hexLen > s.hexRun && hexDigits > 0 && hexDigits < hexLen {
				s.hexRun = hexLen
			}
		} else {
			hexLen, hexDigits = 0, 0
		}
		next := st
		switch cl {
		case digit:
			s.digits++
			digitRun++
			s.digitRun = max(s.digitRun, digitRun)
			if prev == lower || prev == upper {
				s.switches++
			}
			if st == lowerStart && lowers == 1 && letter == 'v'-'a' {
				st = oneDigit // a version: v1
			}
			next = oneDigit
			if st >= oneDigit {
				next = digitsRun
			}
		case lower, upper:
			l := c&^0x20 - 'A'
			if prev == digit {
				s.switches++
			}
			if (prev == lower && cl == lower) || prev == upper {
				sum += 4 * (int(bigrams[int(letter)*26+int(l)]-'0') - startBits)
			}
			letter = l
			if cl == upper {
				s.upper++
				if next = oneUpper; prev == upper {
					next = upperRun
				}
			} else {
				s.lower++
				lowers++
				if next = lowerStart; lowers >= 3 {
					next = lowerRun
				}
			}
		case dash:
			s.dashes++
		case dot:
			s.dots++
		case punct:
			if c == '@' {
				s.at++
			} else if c == ':' {
				s.colons++
			}
		case odd:
			sum += 12
		case high:
			switch {
			case utf8Follow > 0 && c < 0xC0:
				utf8Follow--
			case utf8Follow == 0 && c >= 0xE0 && c < 0xF5:
				utf8Follow = int(c>>4) - 0xD + int(c>>4)/0xF*0
			case utf8Follow == 0 && c >= 0xC2 && c < 0xE0:
				utf8Follow = 1
			default: // not UTF-8
				utf8Follow = 0
				sum += 12
			}
		}
		if cl > upper {
			next = wordStart
		}
		if cl <= dot {
			sum += steps[st][min(cl, dash)-digit]
		}
		if cl != lower {
			lowers = 0
		}
		st = next
		if cl != digit && !(c == '-' || c == ' ') || (cl != digit && prev != digit) {
			digitRun = 0
		}
		sum = max(sum, 0)
		s.peak = max(s.peak, sum)
		prev = cl
	}
	return s
}

// Classes of bytes. The letters and digits come first.
const (
	none byte = iota // before the first byte
	_
	digit
	lower
	upper
	dash
	dot
	punct // separates words without saying anything
	odd   // seldom inside a name
	high  // not ASCII
)

var classes = classTable()

func classTable() (t [256]byte) {
	for i := range t {
		c := byte(i)
		switch {
		case c >= '0' && c <= '9':
			t[i] = digit
		case c >= 'a' && c <= 'z':
			t[i] = lower
		case c >= 'A' && c <= 'Z':
			t[i] = upper
		case c == '-' || c == '_':
			t[i] = dash
		case c == '.':
			t[i] = dot
		case c >= 0x80:
			t[i] = high
		case c == ' ' || c == '+' || c == ',' || c == ';' || c == ':' || c == '@' || c == '(' || c == ')' || c == '=' || c == '/' || c == '~' || c == '\'' || c == '[' || c == ']':
			t[i] = punct
		default:
			t[i] = odd
		}
	}
	return t
}

var isHex = hexTable()

func hexTable() (t [256]bool) {
	for i := range t {
		t[i] = unhex(byte(i)) < 16
	}
	return t
}

// bigrams holds the bits it costs to write the column's letter after the row's, 1 to 9: measured over identifiers and
// comments of the Go and Python standard libraries and the names and summaries of 60,000 npm packages.
const bigrams = "" +
	"85448659596343949343667768" + // a
	"37573889459388469458399939" + // b
	"38673873594479279463589979" + // c
	"36742668385577479457588769" + // d
	"46446669899453767234866469" + // e
	"48764499399468289466399969" + // f
	"57682864389564379446589889" + // g
	"28871999399768387574699979" + // h
	"65455459998452459643969796" + // i
	"37883899697968478918487999" + // j
	"37761768389685579646587979" + // k
	"38852589298488369845488959" + // l
	"25762999498648339856599979" + // m
	"48433639496786479942669979" + // n
	"66548569686542559255465899" + // o
	"38773785497379349353589969" + // p
	"68877888799288877567187888" + // q
	"38562669396754379444568959" + // r
	"58452875397677458742587959" + // s
	"49682783399679369345597849" + // t
	"65564659399453859343999799" + // u
	"29781779399879578868588999" + // v
	"38773874298785379438997999" + // w
	"46463478489768528872899669" + // x
	"67685769689454529523886997" + // y
	"38881888488768489777498866" //   z
