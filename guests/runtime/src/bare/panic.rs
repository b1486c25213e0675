//! Last words: the panic message goes to the host. Nothing here allocates.
#![expect(clippy::cast_possible_truncation, reason = "a pointer is 64 bits wide here")]

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use instar_abi::memory::PANIC_TEXT_BYTES;

use super::machine::give_up;

/// A text of bounded length; what does not fit is cut.
struct Text {
    bytes: [u8; PANIC_TEXT_BYTES as usize],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            match self.bytes.get_mut(self.length) {
                Some(place) => *place = byte,
                None => return Err(fmt::Error),
            }
            self.length += 1;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut text = Text { bytes: [0; PANIC_TEXT_BYTES as usize], length: 0 };
    // A message that does not fit is better than none.
    let _ = match info.location() {
        Some(place) => write!(text, "{} ({}:{})", info.message(), place.file(), place.line()),
        None => write!(text, "{}", info.message()),
    };
    give_up(text.bytes.get(..text.length).unwrap_or_default())
}

/// What compiled parts of the standard library call to go on unwinding. Nothing ever starts to: a panic ends the program.
#[expect(unsafe_code, reason = "the name is what the library links to")]
// SAFETY: nothing else has this name, and it is never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    give_up(b"unwinding")
}
