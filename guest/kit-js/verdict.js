// Makes verdicts, in the form of the goldens.

/** Stores one row. */
export const accept = (event) => ({ accept: event });

/** Stores several rows, all or none: 1 to 1,000. */
export const expand = (events) => ({ expand: events });

/** Keeps the entry as a dead letter, with these reasons. */
export const reject = (violations) => ({ reject: violations });

/** Drops the entry on purpose, with a short reason, which is counted: it must not contain data. */
export const discard = (reason) => ({ discard: reason });
