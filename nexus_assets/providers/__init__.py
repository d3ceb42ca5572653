"""Where prices come from: one file per provider, all behind `interface.Provider`. No Dagster, no database."""
