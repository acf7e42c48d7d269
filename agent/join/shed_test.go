package join

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// One end may have been told to leave its responses out: the other's is the call's.
func TestAnEndThatReadNoResponse(t *testing.T) {
	for name, blind := range map[string][2]bool{"server": {true, false}, "client": {false, true}, "both": {true, true}} {
		j, out := collect(0)
		server, client := sighting("s", "/a", false, 0, 2, 9), sighting("c", "/a", true, 0, 1, 10)
		for i, s := range []Sighting{server, client} {
			s.Call.Duration = durationpb.New(time.Duration(i+1) * time.Second)
			s.Call.Response = &v1.Content{HeaderNames: []string{"server", "date"}[i : i+1]}
			if blind[i] {
				s.Call.StatusCode, s.Call.Response, s.Call.Coverage = 0, &v1.Content{}, []string{"response_shed"}
			}
		}
		j.Add(client)
		j.Add(server)
		if len(*out) != 1 {
			t.Fatalf("%s: %d calls", name, len(*out))
		}
		c := (*out)[0]
		read := !blind[0] || !blind[1]
		if c.Id != "s" || (c.StatusCode == 200) != read || len(c.Response.HeaderNames) == 1 != read || slices.Contains(c.Coverage, "response_shed") == read {
			t.Errorf("%s: %v", name, c)
		}
		if want := map[string]time.Duration{"server": 2 * time.Second}[name]; want != 0 && c.Duration.AsDuration() != want {
			t.Errorf("%s: took %v", name, c.Duration.AsDuration())
		}
	}
}
