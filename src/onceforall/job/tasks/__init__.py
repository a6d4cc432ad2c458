"""What verbs do beside a whole run: inspect, search and ship again, choose, compare, measure."""
