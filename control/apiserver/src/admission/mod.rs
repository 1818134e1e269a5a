//! Placeholder until the registry's owner writes it.
