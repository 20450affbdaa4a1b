//! Takes a component apart, and puts it together with another memory.
//!
//! It does for one kind of component what `wasmtime-wizer` does for any: see `docs/decisions/`. The generic component has
//! one module with a memory, and all that its code changes at run time is in that memory: the stack pointer, its only
//! global that changes, is back where it was when a function has returned. So another memory is all that a snapshot is.

use std::ops::Range;

use wasmparser::{BinaryReader, DataKind, DataSectionReader, GlobalSectionReader, MemorySectionReader};

use super::Error;

/// Counts the bytes before the first section, of a component as of a module.
const HEADER: usize = 8;
/// Counts the bytes of a page of memory.
const PAGE: usize = 64 << 10;
/// Bounds a run of zeroes within a segment. It costs less than another segment does.
const MAX_GAP: usize = 16;
/// Bounds the segments of a module, below what engines bound.
const MAX_SEGMENTS: usize = 90_000;

/// Numbers the sections of a component and of a module that matter here.
const CORE_MODULE: u8 = 1;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const START: u8 = 8;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;

/// Holds a component, and where in it the module with the memory is.
pub(super) struct Image<'a> {
    component: &'a [u8],
    /// The whole section, with its header.
    section: Range<usize>,
    module: &'a [u8],
}

/// Holds a section of a component or of a module.
struct Section<'a> {
    id: u8,
    /// Says where it is, with its header.
    range: Range<usize>,
    body: &'a [u8],
}

impl<'a> Image<'a> {
    pub(super) fn find(component: &'a [u8]) -> Result<Self, Error> {
        let mut found = Vec::new();
        for section in sections(component)?.into_iter().filter(|section| section.id == CORE_MODULE) {
            if sections(section.body)?.iter().any(|section| section.id == MEMORY) {
                found.push(Self { component, section: section.range, module: section.body });
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(image), true) => Ok(image),
            _ => Err(defective("expected one module with a memory")),
        }
    }

    pub(super) fn module(&self) -> &'a [u8] {
        self.module
    }

    /// Returns the component with this content of its memory.
    pub(super) fn with_memory(&self, memory: &[u8]) -> Result<Vec<u8>, Error> {
        let sections = sections(self.module)?;
        check(&sections)?;
        let segments = segments(memory);
        if segments.len() > MAX_SEGMENTS {
            return Err(defective("the memory is too scattered"));
        }
        let mut module = self.module.get(..HEADER).unwrap_or_default().to_vec();
        for section in sections {
            let mut body = Vec::new();
            match section.id {
                MEMORY => encode_memory(section.body, memory.len(), &mut body)?,
                DATA_COUNT => encode_number(segments.len(), &mut body),
                DATA => encode_segments(&segments, &mut body)?,
                _ => body.extend_from_slice(section.body),
            }
            encode_section(section.id, &body, &mut module);
        }
        let mut component = self.component.get(..self.section.start).unwrap_or_default().to_vec();
        encode_section(CORE_MODULE, &module, &mut component);
        component.extend_from_slice(self.component.get(self.section.end..).unwrap_or_default());
        Ok(component)
    }
}

/// Splits into sections what follows the header.
fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, Error> {
    let mut reader = BinaryReader::new(bytes, 0);
    reader.read_bytes(HEADER).map_err(malformed)?;
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8().map_err(malformed)?;
        let len = reader.read_var_u32().map_err(malformed)?;
        let body = reader.read_bytes(usize::try_from(len).unwrap_or(usize::MAX)).map_err(malformed)?;
        sections.push(Section { id, range: start..reader.original_position(), body });
    }
    Ok(sections)
}

/// Checks that the memory is all that the module's code changes.
fn check(sections: &[Section<'_>]) -> Result<(), Error> {
    let (mut changing, mut has_data) = (0, false);
    for section in sections {
        let reader = BinaryReader::new(section.body, 0);
        match section.id {
            START => return Err(defective("expected no start function: it would run again")),
            GLOBAL => {
                for global in GlobalSectionReader::new(reader).map_err(malformed)? {
                    changing += u32::from(global.map_err(malformed)?.ty.mutable);
                }
            }
            DATA => {
                has_data = true;
                for segment in DataSectionReader::new(reader).map_err(malformed)? {
                    if let DataKind::Passive = segment.map_err(malformed)?.kind {
                        return Err(defective("expected data that is in the memory from the beginning"));
                    }
                }
            }
            _ => {}
        }
    }
    match (changing, has_data) {
        (1, true) => Ok(()),
        _ => Err(defective("expected data, and a stack pointer as the only global that changes")),
    }
}

/// Returns where there is anything but zeroes.
fn segments(memory: &[u8]) -> Vec<(usize, &[u8])> {
    let mut segments: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for run in memory.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        let range = at..at + run.len();
        at = range.end;
        if run.first() == Some(&0) {
            continue;
        }
        match segments.last_mut() {
            Some(last) if range.start - last.end <= MAX_GAP => last.end = range.end,
            _ => segments.push(range),
        }
    }
    segments.into_iter().filter_map(|range| Some((range.start, memory.get(range)?))).collect()
}

fn encode_section(id: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    encode_number(body.len(), out);
    out.extend_from_slice(body);
}

/// Encodes the one memory, with so many bytes to begin with.
fn encode_memory(body: &[u8], bytes: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let reader = MemorySectionReader::new(BinaryReader::new(body, 0)).map_err(malformed)?;
    let memories = reader.into_iter().collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    match memories.as_slice() {
        [memory] if !memory.memory64 && !memory.shared && memory.maximum.is_none() => {
            out.extend_from_slice(&[1, 0]);
            encode_number(bytes / PAGE, out);
            Ok(())
        }
        _ => Err(defective("expected one memory of 32 bits without a maximum")),
    }
}

fn encode_segments(segments: &[(usize, &[u8])], out: &mut Vec<u8>) -> Result<(), Error> {
    const ACTIVE: u8 = 0;
    const I32_CONST: u8 = 0x41;
    const END: u8 = 0x0b;
    encode_number(segments.len(), out);
    for (at, bytes) in segments {
        let at = i32::try_from(*at).map_err(|_| defective("the memory is larger than 2 GiB"))?;
        out.extend_from_slice(&[ACTIVE, I32_CONST]);
        encode_signed(at, out);
        out.push(END);
        encode_number(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
    Ok(())
}

/// Encodes a number as LEB128.
fn encode_number(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        match number {
            0 => return out.push(byte),
            _ => out.push(byte | 0x80),
        }
    }
}

/// Encodes a number as LEB128 with a sign, which is the second highest bit of the last byte.
fn encode_signed(mut number: i32, out: &mut Vec<u8>) {
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        match (number, byte & 0x40) {
            (0, 0) | (-1, 0x40) => return out.push(byte),
            _ => out.push(byte | 0x80),
        }
    }
}

fn malformed(error: wasmparser::BinaryReaderError) -> Error {
    Error::Defective(error.to_string())
}

fn defective(what: &str) -> Error {
    Error::Defective(what.to_owned())
}
