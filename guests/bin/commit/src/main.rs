//! The guest program of `instar commit`: job in, report out.
#![no_std]
#![no_main]

instar_runtime::program!(instar_exec::commit::run);
