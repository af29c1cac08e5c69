//! The generic part of a PCI function: configuration space and MSI-X.

pub mod msix;
