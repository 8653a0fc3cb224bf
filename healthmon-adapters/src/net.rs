//! Dialling out: which addresses may be dialled, and how.
