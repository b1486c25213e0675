//! The guest program of `instar info`: job in, report out.
#![no_std]
#![no_main]

instar_runtime::program!(instar_exec::info::run);
