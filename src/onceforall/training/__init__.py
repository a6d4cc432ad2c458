"""Training supernets: plans, losses, schedules, the engine."""
