"""The controller of one deployment: triggers, rollouts, guards and stages."""
