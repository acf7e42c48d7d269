package journal

import (
	"fmt"
	"strconv"
	"strings"
)

// Partitions is fixed for the life of an installation: what one owner reads and writes alone. Which of them a record belongs
// to is the sender's decision; every call of a service must go to the same one.
const Partitions = 64

func partitionToken(partition int) string {
	return fmt.Sprintf("%02d", partition)
}

func parsePartition(subject string) (int, error) {
	parts := strings.SplitN(subject, ".", 3)
	if len(parts) < 3 {
		return 0, fmt.Errorf("read partition of subject %q: too short", subject)
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil || n < 0 || n >= Partitions {
		return 0, fmt.Errorf("read partition of subject %q: not 0 to %d", subject, Partitions-1)
	}
	return n, nil
}

func checkPartition(partition int) error {
	if partition < 0 || partition >= Partitions {
		return fmt.Errorf("partition %d is not 0 to %d", partition, Partitions-1)
	}
	return nil
}
