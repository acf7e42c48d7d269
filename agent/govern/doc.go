// Package govern decides how much the agent takes in, so that neither it nor its probes cost more than a budget.
//
// Two meters, each a mean over ten seconds, drive two ladders:
//
//	what the agent itself uses             what its probes cost the programs
//
//	      ┌──────────┐                           ┌──────────┐
//	      │   full   │                           │   full   │
//	      └──────────┘                           └──────────┘
//	 over │          ▲ calm                 over │          ▲ calm
//	      ▼          │                           ▼          │
//	      no_bodies: of a message its first KiB  detached: the file that costs most, then the next
//	      ▼          │
//	      no_responses: requests alone
//	      ▼          │
//	      sampled: one connection in 2, 4, ... 64
//
// Over is a mean above the budget: one stage up. Calm is every mean below 70 % of it for a minute: one stage down. After
// each change the meters begin anew, so a change is judged by what it brought. Whoever is over again within two minutes of
// a step down waits twice as long before the next, up to 16 minutes; a step that held is followed by one of a minute.
//
// What is copied does not change what a trap costs, so the first ladder is no remedy for dear probes, and the second is
// used at once, whatever the first says. It relieves the agent too: while both are over, a file is detached and the agent
// is measured again. The stage that is told is "detached" as long as a file is, else that of the first ladder.
//
// Where what arrives explains next to nothing of what the agent uses (it reads the files of a thousand programs, say),
// nothing is left out, and what is left out comes back as if all were calm: it would help nobody. A budget that cannot be kept is told.
//
// Where one cgroup makes more than half of the agent's work only that one is degraded; what the kernel dropped of it for
// lack of room counts as its work, else whoever floods would look like its neighbours. When it is no longer the reason the
// same stage goes on for all.
//
// A library above a budget of its own is suspended for ten minutes, whatever the stage.
//
// Nothing is lost here; what a stage leaves out the kernel counts, by cgroup. The package is pure: time and figures come
// in a Sample, what to do goes out in a Decision. One goroutine uses a Governor.
package govern
