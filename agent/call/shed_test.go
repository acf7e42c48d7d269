package call

import (
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/parse"
)

func TestAResponseThatWasLeftOut(t *testing.T) {
	x := exchange("POST", "/orders?id=7", "authorization: Basic YTpi\r\ncontent-type: application/json", `{"a":1}`, 200, "", "")
	x.Request.Start = time.Second
	x.Response = &parse.Message{Shed: true, BodyTruncated: true, BodyBytes: 300, HeadEnd: 2 * time.Second, End: 3 * time.Second}
	c := describer(t).Describe(Context{}, x)
	if c == nil {
		t.Fatal("no call")
	}
	if c.StatusCode != 0 || c.Response.GetBytes() != 300 || c.Duration.AsDuration() != 2*time.Second || c.GetAuth().GetScheme() != "basic" || len(c.Request.Fields) != 2 {
		t.Errorf("%v", c)
	}
	if !slices.Equal(c.Coverage, []string{"response_shed"}) {
		t.Errorf("coverage %v", c.Coverage)
	}
	// On a connection with many requests open its size is not known.
	x.Response.BodyBytes = 0
	if c := describer(t).Describe(Context{}, x); c.Response.Bytes != nil {
		t.Errorf("%v", c.Response)
	}
	x.Response.Shed = false
	if c := describer(t).Describe(Context{}, x); c != nil {
		t.Errorf("a call without a response: %v", c)
	}
}
