//! Witness backends: where the register lives.
