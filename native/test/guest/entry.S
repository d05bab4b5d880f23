// Entry of the test guest: an ELF kernel by the PVH boot protocol (32-bit protected mode, EBX = hvm_start_info). Goes to
// 64-bit mode with the first 6 GiB identity-mapped and calls guestMain.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4                      // bytes of the name
    .long 4                      // bytes of the description
    .long 18                     // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

    .text
    .code32
    .globl _start
_start:
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax               // PAE
    mov %eax, %cr4
    mov $0xc0000080, %ecx        // EFER
    rdmsr
    or $0x100, %eax              // LME
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax         // PG
    mov %eax, %cr0
    lgdt gdtDescriptor
    ljmp $0x8, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stackTop, %rsp
    mov %ebx, %edi
    call guestMain
1:  hlt
    jmp 1b

// void interruptEntry(void): counts an interrupt and acknowledges it at the local APIC.
    .globl interruptEntry
interruptEntry:
    incl interruptCount
    push %rax
    mov $0xfee000b0, %eax
    movl $0, (%rax)
    pop %rax
    iretq

// Copied below 1 MiB; an application processor begins here in real mode.
    .globl apStart, apEnd
    .code16
apStart:
    xor %ax, %ax
    mov %ax, %ds
    lock incw 0x9000
1:  cli
    hlt
    jmp 1b
apEnd:

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff     // 64-bit code
    .quad 0x00cf93000000ffff     // data
gdtDescriptor:
    .word . - gdt - 1
    .long gdt
    .globl interruptCount
    .balign 4
interruptCount:
    .long 0

    .balign 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad pd + 3, pd + 0x1003, pd + 0x2003, pd + 0x3003, pd + 0x4003, pd + 0x5003
    .fill 506, 8, 0
pd:
    .set address, 0
    .rept 6 * 512
    .quad address + 0x83         // present, writable, 2 MiB
    .set address, address + 0x200000
    .endr

    .bss
    .balign 16
    .fill 16384
stackTop:
    .section .note.GNU-stack, "", @progbits
