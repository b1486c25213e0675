//! The program of machines that do nothing but unpack compressed clusters.
#![no_std]
#![no_main]

instar_runtime::unpacker!();
