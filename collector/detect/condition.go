package detect

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxCost is the most that one evaluation of one expression may cost, in CEL's units (about one per comparison).
	maxCost = 200_000
	// maxElements and maxStringBytes are what the estimate assumes of a call's lists and strings.
	maxElements    = 256
	maxStringBytes = 256
	// maxWhyBytes bounds one piece of evidence.
	maxWhyBytes = 512
)

// program is what a rule is compiled to.
type program struct {
	needs    facts
	when     cel.Program
	severity []cel.Program
	why      cel.Program
}

// newEnv declares what an expression may use: the variable call and the functions
//
//	secrets(content)  paths of fields that are credentials
//	exposed(call)     personal classes that the response holds beyond the request
func newEnv() (*cel.Env, error) {
	content, call, list := cel.ObjectType("spile.v1.Content"), cel.ObjectType("spile.v1.Call"), cel.ListType(cel.StringType)
	return cel.NewEnv(
		cel.Types(&v1.Call{}),
		cel.Variable("call", call),
		ext.Strings(ext.StringsVersion(4)),
		cel.Function("secrets", cel.Overload("secrets_content", []*cel.Type{content}, list, cel.UnaryBinding(func(v ref.Val) ref.Val {
			c, ok := asContent(v.Value())
			if !ok {
				return types.MaybeNoSuchOverloadErr(v)
			}
			return types.NewStringList(types.DefaultTypeAdapter, secrets(c))
		}))),
		cel.Function("exposed", cel.Overload("exposed_call", []*cel.Type{call}, list, cel.UnaryBinding(func(v ref.Val) ref.Val {
			c, ok := v.Value().(*v1.Call)
			if !ok {
				return types.MaybeNoSuchOverloadErr(v)
			}
			return types.NewStringList(types.DefaultTypeAdapter, exposed(c))
		}))),
	)
}

// asContent reads the argument of a function. CEL stands a message of its own in for one that the call does not have.
func asContent(v any) (*v1.Content, bool) {
	switch m := v.(type) {
	case *v1.Content:
		return m, true
	case proto.Message:
		return nil, proto.Size(m) == 0
	}
	return nil, false
}

// compile turns the rule's expressions into programs and refuses what could cost too much.
func (r *Rule) compile() error {
	env, err := newEnv()
	if err != nil {
		return fmt.Errorf("make CEL environment: %w", err)
	}
	if r.program.needs, err = needed(r.Needs); err != nil {
		return err
	}
	if r.program.when, err = compile(env, r.When, cel.BoolType); err != nil {
		return fmt.Errorf("when: %w", err)
	}
	if r.program.why, err = compile(env, r.Why, cel.StringType); err != nil {
		return fmt.Errorf("why: %w", err)
	}
	for i, s := range r.SeverityIf {
		p, err := compile(env, s.When, cel.BoolType)
		if err != nil {
			return fmt.Errorf("severity_if %d: %w", i+1, err)
		}
		r.program.severity = append(r.program.severity, p)
	}
	return nil
}

func compile(env *cel.Env, text string, want *cel.Type) (cel.Program, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("expression is empty")
	}
	ast, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	if !ast.OutputType().IsExactType(want) {
		return nil, fmt.Errorf("gives %s, not %s", ast.OutputType(), want)
	}
	estimate, err := env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("estimate cost: %w", err)
	}
	if estimate.Max > maxCost {
		return nil, fmt.Errorf("costs up to %d units a call, more than %d: nest fewer loops over fields", estimate.Max, maxCost)
	}
	// The estimate above rests on assumed sizes; a call that exceeds them is stopped here.
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
}

// sizes tells the cost estimate how large the parts of a call may be.
type sizes struct{}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	switch node.Type().Kind() {
	case types.ListKind, types.MapKind:
		return &cost.SizeEstimate{Min: 0, Max: maxElements}
	case types.StringKind:
		return &cost.SizeEstimate{Min: 0, Max: maxStringBytes}
	}
	return nil
}

func (sizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function != "secrets" && function != "exposed" {
		return nil
	}
	return &cost.CallEstimate{
		CostEstimate: cost.Estimate{Min: 1, Max: maxElements},
		ResultSize:   &cost.SizeEstimate{Min: 0, Max: maxElements},
	}
}

// activation hands one call to CEL without a map.
type activation struct{ call ref.Val }

func (a *activation) ResolveName(name string) (any, bool) {
	if name == "call" {
		return a.call, true
	}
	return nil, false
}

func (*activation) Parent() cel.Activation { return nil }

func holds(p cel.Program, a *activation) (bool, error) {
	out, _, err := p.Eval(a)
	if err != nil {
		return false, err
	}
	return out == types.True, nil
}

// explain evaluates a rule's why. It cannot hold a value: a call has none.
func explain(p cel.Program, a *activation) (string, error) {
	out, _, err := p.Eval(a)
	if err != nil {
		return "", err
	}
	s, ok := out.Value().(string)
	if !ok {
		return "", fmt.Errorf("evaluate why: got %s", out.Type())
	}
	if len(s) > maxWhyBytes {
		s = strings.ToValidUTF8(s[:maxWhyBytes], "") + "..."
	}
	return s, nil
}
