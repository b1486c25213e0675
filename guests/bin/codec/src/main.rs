//! The program of machines that do nothing but unpack compressed clusters, and pack others.
#![no_std]
#![no_main]

instar_runtime::codec_machine!();
