"""Quality of answers: daily losses, alarms, slices and arms."""
