"""The experts inside a mixture: where a model selects them, and interventions on them. Knows no engine and no trace."""
