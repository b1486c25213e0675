//! How the extents of the layers above a base get into the base, one planner a target format.

mod blocks;
mod qcow2;
mod vmdk;

pub use blocks::{Block, BlockStep, BlockTarget, plan_commit_blocks};
pub use qcow2::{HostCluster, Place, Step, Target, TargetCluster, plan_commit_qcow2};
pub use vmdk::{GrainStep, SparseTarget, plan_commit_vmdk};
