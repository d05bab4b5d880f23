package main

import (
	"fmt"
	"slices"
	"strings"
)

// hunk is an insertion: lines follow line `at` (1-based; 0 is the file's begin) of the original.
type hunk struct {
	at    int
	lines []string
}

// plan finds where the edits of one file belong. Fails when an anchor does not occur as often as it must.
func plan(name string, text string, edits []edit) ([]hunk, error) {
	original := strings.Split(text, "\n")
	var hunks []hunk
	for number, line := range original {
		for _, e := range edits {
			if !strings.HasSuffix(line, e.anchor) {
				continue
			}
			at := number + 1
			if e.before {
				at = number
			}
			// git takes no two hunks at one place.
			if last := len(hunks) - 1; last >= 0 && hunks[last].at == at {
				hunks[last].lines = slices.Concat(hunks[last].lines, e.lines)
			} else {
				hunks = append(hunks, hunk{at, e.lines})
			}
		}
	}
	for _, e := range edits {
		found := 0
		for _, line := range original {
			if strings.HasSuffix(line, e.anchor) {
				found++
			}
		}
		if found != e.count {
			return nil, fmt.Errorf("%s: the line %q occurs %d times, not %d: this minikube is not the one that the patch was made for", name, e.anchor, found, e.count)
		}
	}
	return hunks, nil
}

// apply inserts the hunks, which are in the order of their lines.
func apply(text string, hunks []hunk) string {
	original := strings.Split(text, "\n")
	var result []string
	next := 0
	for _, h := range hunks {
		result = append(result, original[next:h.at]...)
		result = append(result, h.lines...)
		next = h.at
	}
	return strings.Join(append(result, original[next:]...), "\n")
}

// diff is the patch of one file with no line of context. isNew says that the file does not exist before.
func diff(name string, isNew bool, hunks []hunk) string {
	from, mode := "a/"+name, ""
	if isNew {
		from, mode = "/dev/null", "new file mode 100644\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "diff --git a/%s b/%s\n%s--- %s\n+++ b/%s\n", name, name, mode, from, name)
	added := 0
	for _, h := range hunks {
		fmt.Fprintf(&b, "@@ -%d,0 +%d,%d @@\n", h.at, h.at+added+1, len(h.lines))
		for _, line := range h.lines {
			fmt.Fprintf(&b, "+%s\n", line)
		}
		added += len(h.lines)
	}
	return b.String()
}
