// uint64_t probe(void **save, void *to, uint64_t transfer, uint64_t out[20], uint64_t seed)
//
// Fills every callee-saved register with a number derived from `seed`, switches, and writes what is
// in them afterwards to `out`: x19-x28, d8-d15, x29, sp. x29 and sp must be equal.
    .text
    .p2align 2
    .global probe
    .type probe, %function
probe:
    stp x29, x30, [sp, #-176]!
    mov x29, sp
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    str x3, [sp, #160]
    add x19, x4, #0
    add x20, x4, #1
    add x21, x4, #2
    add x22, x4, #3
    add x23, x4, #4
    add x24, x4, #5
    add x25, x4, #6
    add x26, x4, #7
    add x27, x4, #8
    add x28, x4, #9
    add x5, x4, #10
    fmov d8, x5
    add x5, x4, #11
    fmov d9, x5
    add x5, x4, #12
    fmov d10, x5
    add x5, x4, #13
    fmov d11, x5
    add x5, x4, #14
    fmov d12, x5
    add x5, x4, #15
    fmov d13, x5
    add x5, x4, #16
    fmov d14, x5
    add x5, x4, #17
    fmov d15, x5
    bl weft_switch
    ldr x9, [sp, #160]
    stp x19, x20, [x9, #0]
    stp x21, x22, [x9, #16]
    stp x23, x24, [x9, #32]
    stp x25, x26, [x9, #48]
    stp x27, x28, [x9, #64]
    stp d8, d9, [x9, #80]
    stp d10, d11, [x9, #96]
    stp d12, d13, [x9, #112]
    stp d14, d15, [x9, #128]
    mov x10, sp
    stp x29, x10, [x9, #144]
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #176
    ret
    .section .note.GNU-stack,"",%progbits
