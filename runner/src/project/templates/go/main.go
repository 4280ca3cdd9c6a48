// What the task does: standard input in, standard output out. It runs natively too: go run . < sample/input.txt
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil || len(input) == 0 {
		fmt.Fprintln(os.Stderr, "nothing to shout:", err)
		os.Exit(1) // the outcome is `exit_nonzero`; what was written to standard error is in the task's log
	}
	fmt.Fprintln(os.Stderr, len(input), "bytes for task", os.Getenv("TASK_ID"))
	os.Stdout.Write(bytes.ToUpper(input))
}
