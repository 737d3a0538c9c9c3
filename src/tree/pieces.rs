//! Between a thread that reads and writes and a task that has pieces: who makes an archive writes into [`Outgoing`], who
//! unpacks one reads from [`Incoming`].

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes handed over at once.
const PIECE: usize = 256 * 1024;

/// Gathers what is written and hands it over in pieces of a good size. [`Write::flush`] hands over the rest.
pub struct Outgoing<F> {
    hand_over: F,
    gathered: BytesMut,
}

impl<F: FnMut(Bytes) -> io::Result<()>> Outgoing<F> {
    /// `hand_over` waits where there is no room; its error ends the work.
    pub fn new(hand_over: F) -> Self {
        Self { hand_over, gathered: BytesMut::new() }
    }
}

impl<F: FnMut(Bytes) -> io::Result<()>> Write for Outgoing<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() { Ok(()) } else { (self.hand_over)(self.gathered.split().freeze()) }
    }
}

/// Reads piece after piece.
pub struct Incoming<F> {
    next: F,
    piece: Bytes,
    has_ended: bool,
}

impl<F: FnMut() -> io::Result<Bytes>> Incoming<F> {
    /// `next` waits for a piece; an empty one is the end.
    pub fn new(next: F) -> Self {
        Self { next, piece: Bytes::new(), has_ended: false }
    }
}

impl<F: FnMut() -> io::Result<Bytes>> Read for Incoming<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.has_ended {
            self.piece = (self.next)()?;
            self.has_ended = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}
