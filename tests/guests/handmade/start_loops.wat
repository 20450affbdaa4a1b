;; Its start-up code never returns. Refused at load by GUEST_TIME_LIMIT_MS. It cannot wait for its first batch:
;; start-up code sees nothing that differs from the trial at load, so what runs there ends at every batch.
(func $f (loop (br 0)))
(start $f)
(func $provoked (param i32))
