//! Random cases: chains and commands drawn from a seed, run by the product and by qemu-img, judged by the oracles of the matrix.
//!
//! The path of a case: [`generator`] draws a [`plan::Plan`], [`builder`] makes its images, [`trial`] has both programs run it and judges,
//! [`rules`] knows the classes of differences that are meant, and [`shrinker`] makes a failing plan small. [`corpus`] holds cases with
//! qemu-img's outcomes on disk, which [`replay`] judges without it.

pub mod builder;
pub mod commands;
pub mod contents;
pub mod corpus;
pub mod facts;
pub mod generator;
pub mod images;
pub mod plan;
pub mod replay;
pub mod rules;
pub mod shrinker;
pub mod trial;
