package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// FlagError says of a flag that is not understood: the flag, the value, what is allowed and an example.
func FlagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		f := invalid.GetFlag()
		return fmt.Errorf("--%s %q: want %s", f.Name, invalid.GetValue(), allowed(f, invalid.Unwrap()))
	}
	var missing *pflag.ValueRequiredError
	if errors.As(err, &missing) {
		f := missing.GetFlag()
		want := allowed(f, nil)
		if want == "" {
			_, want = pflag.UnquoteUsage(f)
		}
		return fmt.Errorf("--%s needs a value: %s", f.Name, want)
	}
	return err
}

// allowed is what a flag takes, by its kind; else what its own refusal says.
func allowed(f *pflag.Flag, why error) string {
	switch f.Value.Type() {
	case "duration":
		return "a duration, such as 72h or 30m"
	case "bool":
		return "true or false"
	}
	if why == nil {
		return ""
	}
	return strings.TrimPrefix(why.Error(), "want ")
}
