//! Bytes that no honest peer sends.
