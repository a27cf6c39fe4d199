//! Messages and descriptors over the template's socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::ProcessError;
use crate::wire::{DESCRIPTORS, FrameError, Header, INLINE, Kind, MESSAGE};

/// How many descriptors travel in one message of a socket that carries nothing else, and with a request beside its own.
const BATCH: usize = 240;

/// A received message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) state: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Those that belong to the message, without its memory file; then the user's.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// Bytes that make no sense; the descriptors that came with them are closed.
    Nonsense(FrameError),
    /// A message whose descriptors this process had no room for; those that did arrive.
    NoRoom(Vec<OwnedFd>),
    /// All senders are gone.
    End,
}

pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// What to send, beside the header's own numbers.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: Kind,
    pub(crate) client: u32,
    pub(crate) state: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// The three of a request, nothing for others.
    pub(crate) own: &'a [BorrowedFd<'a>],
    pub(crate) users: &'a [BorrowedFd<'a>],
}

/// A message made ready: sending it can be repeated after a signal.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    header: Header,
    outgoing: &'a Outgoing<'a>,
    file: Option<OwnedFd>,
    apart: Option<OwnedFd>,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(outgoing: &'a Outgoing<'a>) -> Result<Self, ProcessError> {
        let count = outgoing.users.len();
        let descriptors = u16::try_from(count)
            .map_err(|_| ProcessError::TooManyDescriptors { count, most: usize::from(u16::MAX) })?;
        let file = if outgoing.payload.len() > INLINE {
            Some(memory_file(outgoing.payload).map_err(ProcessError::system("storing what the child gets"))?)
        } else {
            None
        };
        let apart = if count > BATCH {
            Some(store(outgoing.users).map_err(ProcessError::system("storing the child's descriptors"))?)
        } else {
            None
        };
        let header = Header {
            kind: outgoing.kind,
            in_file: file.is_some(),
            descriptors_apart: apart.is_some(),
            descriptors,
            client: outgoing.client,
            state: u32::try_from(outgoing.state.len()).expect("a state is short"),
            payload: outgoing.payload.len() as u64,
        };
        Ok(Self { header, outgoing, file, apart })
    }

    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut descriptors = self.outgoing.own.to_vec();
        descriptors.extend(self.file.iter().map(AsFd::as_fd));
        match &self.apart {
            Some(store) => descriptors.push(store.as_fd()),
            None => descriptors.extend_from_slice(self.outgoing.users),
        }
        let inline = if self.file.is_some() { &[] } else { self.outgoing.payload };
        let header = self.header.encode();
        let parts = [IoSlice::new(&header), IoSlice::new(self.outgoing.state), IoSlice::new(inline)];
        send_parts(socket, &parts, &descriptors)
    }
}

fn send_parts(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], rights: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(rights)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives one message; `flags` may ask not to wait for it.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    flags: RecvFlags,
) -> Result<Received, ProcessError> {
    buffer.resize(MESSAGE, 0);
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)
            .map_err(ProcessError::system("receiving a message"))?;
    let mut descriptors = take_rights(&mut control);
    if received.bytes == 0 && descriptors.is_empty() {
        return Ok(Received::End);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Received::NoRoom(descriptors));
    }
    let (header, state, inline) = match Header::parse(&buffer[..received.bytes], descriptors.len()) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Received::Nonsense(error)),
    };
    let (state, inline) = (state.to_vec(), inline.to_vec());
    let users = header.attached()
        - header.in_file as usize
        - if header.descriptors_apart { 1 } else { usize::from(header.descriptors) };
    let payload = if header.in_file {
        let file = descriptors.remove(users);
        contents(&file, header.payload).map_err(ProcessError::system("reading what the child gets"))?
    } else {
        inline
    };
    if header.descriptors_apart {
        let store = descriptors.pop().expect("the count was checked");
        match fetch(&store, usize::from(header.descriptors)) {
            Ok(more) => descriptors.extend(more),
            Err(_) => return Ok(Received::NoRoom(descriptors)),
        }
    }
    Ok(Received::Message(Message { header, state, payload, descriptors }))
}

fn take_rights(control: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors
}

/// Descriptors put into a socket, to be fetched from the other end.
fn store(descriptors: &[BorrowedFd<'_>]) -> Result<OwnedFd, Errno> {
    let (outer, inner) = pair()?;
    for batch in descriptors.chunks(BATCH) {
        send_parts(inner.as_fd(), &[IoSlice::new(&[0])], batch)?;
    }
    Ok(outer)
}

fn fetch(store: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>, Errno> {
    let mut found = Vec::new();
    while found.len() < count {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(
            store,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )?;
        let batch = take_rights(&mut control);
        if batch.is_empty() || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE);
        }
        found.extend(batch);
    }
    Ok(found)
}

fn memory_file(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::memfd_create("weft-payload", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file)
}

fn contents(file: &OwnedFd, length: u64) -> Result<Vec<u8>, Errno> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    if size != length {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::NOMEM)?];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], done as u64) {
            Ok(0) => return Err(Errno::INVAL),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
