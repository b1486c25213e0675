//! The guest program of `instar rebase`: job in, report out.
#![no_std]
#![no_main]

instar_runtime::program!(instar_exec::rebase::run);
