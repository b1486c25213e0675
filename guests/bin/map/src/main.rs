//! The guest program that looks at a whole chain for `instar plan`: job in, report out.
#![no_std]
#![no_main]

instar_runtime::program!(instar_exec::map::run);
