// The main loop of a simulated board: clocks the Verilated accelerator and joins its byte stream to a socket.
//
//   popshift-board --link FD [--report FILE] [--trace FILE.vcd] [--seed N]
//
// FD is one end of a socket pair. The program ends when the other end is closed (status 0), on SIGTERM (0), when the design
// stops itself with $finish or a failed assertion (3), or when it is called wrongly (2). Whatever the design prints goes to
// standard output, complaints go to standard error. The report says how many cycles were simulated in how many seconds.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "Vpopshift.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

// A look at the socket costs about as much as a cycle of a middling design: 256 cycles apart it is free, and still answers
// within milliseconds on the largest.
constexpr unsigned kCyclesPerPoll = 256;
// Cycles without work before the loop blocks: time for a registered `busy` to rise after the last byte.
constexpr unsigned kCyclesToIdle = 16;
constexpr unsigned kResetCycles = 4;
constexpr size_t kBufferBytes = 1 << 16;

volatile std::sig_atomic_t terminated = 0;
void on_terminate(int) { terminated = 1; }

struct Options {
    int link = -1;
    std::string report, trace;
    unsigned long seed = 0;  // 0: memories without initial value start at zero; else at random
};

[[noreturn]] void usage(const char* what) {
    std::fprintf(stderr, "%s\nusage: popshift-board --link FD [--report FILE] [--trace FILE.vcd] [--seed N]\n", what);
    std::exit(2);
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; i += 2) {
        const std::string key = argv[i];
        if (i + 1 == argc) usage(("no value for " + key).c_str());
        if (key == "--link") options.link = std::atoi(argv[i + 1]);
        else if (key == "--report") options.report = argv[i + 1];
        else if (key == "--trace") options.trace = argv[i + 1];
        else if (key == "--seed") options.seed = std::strtoul(argv[i + 1], nullptr, 10);
        else usage(("unknown option " + key).c_str());
    }
    if (options.link < 0) usage("--link is missing");
    return options;
}

// Non-blocking, buffered ends of the socket.
class Link {
public:
    explicit Link(int fd) : fd_(fd) {
        if (fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK) != 0) usage("--link is not an open descriptor");
    }

    bool open() const { return open_; }
    bool has_input() const { return in_next_ != in_end_; }
    uint8_t input() const { return in_[in_next_]; }
    void take() { ++in_next_; }
    bool has_room() const { return out_end_ != kBufferBytes; }
    void put(uint8_t byte) { out_[out_end_++] = byte; }

    // Moves what can be moved without waiting.
    void poll_now() {
        if (!has_input()) receive();
        if (out_end_ != 0) flush();
    }

    // Waits until the host sends (or, while output is held back, takes) something.
    void wait() {
        pollfd entry{fd_, static_cast<short>(POLLIN | (out_end_ ? POLLOUT : 0)), 0};
        ::poll(&entry, 1, -1);  // a signal ends the wait too
        poll_now();
    }

private:
    void receive() {
        const ssize_t got = recv(fd_, in_, kBufferBytes, 0);
        if (got > 0) {
            in_next_ = 0;
            in_end_ = static_cast<size_t>(got);
        } else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            open_ = false;
        }
    }

    void flush() {
        const ssize_t sent = send(fd_, out_, out_end_, MSG_NOSIGNAL);
        if (sent > 0) {
            std::memmove(out_, out_ + sent, out_end_ - static_cast<size_t>(sent));
            out_end_ -= static_cast<size_t>(sent);
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            open_ = false;
        }
    }

    int fd_;
    bool open_ = true;
    size_t in_next_ = 0, in_end_ = 0, out_end_ = 0;
    uint8_t in_[kBufferBytes], out_[kBufferBytes];
};

class Board {
public:
    Board(VerilatedContext& context, const Options& options) : context_(context), top_(&context) {
#if VM_TRACE
        if (!options.trace.empty()) {
            context_.traceEverOn(true);
            trace_ = std::make_unique<VerilatedVcdC>();
            top_.trace(trace_.get(), 99);
            trace_->open(options.trace.c_str());
            if (!trace_->isOpen()) usage(("cannot write " + options.trace).c_str());
        }
#else
        if (!options.trace.empty()) usage("built without waveforms");
#endif
        top_.rst = 1;
        for (unsigned i = 0; i < kResetCycles; ++i) tick();
        top_.rst = 0;
    }

    ~Board() {
        top_.final();
#if VM_TRACE
        if (trace_) trace_->close();
#endif
    }

    // One clock cycle; returns whether anything is going on. Handshakes are sampled just before the rising edge.
    bool step(Link& link) {
        top_.rx___05Fvalid = link.has_input();
        if (link.has_input()) top_.rx___05Fpayload = link.input();
        top_.tx___05Fready = link.has_room();
        low();
        const bool taken = top_.rx___05Fvalid && top_.rx___05Fready;
        const bool given = top_.tx___05Fvalid && top_.tx___05Fready;
        const bool active = top_.busy || top_.tx___05Fvalid || top_.rx___05Fvalid;
        if (given) link.put(top_.tx___05Fpayload);
        if (taken) link.take();
        high();
        return active;
    }

    uint64_t cycles() const { return cycles_; }

private:
    void low() {
        top_.clk = 0;
        top_.eval();
        dump(0);
    }
    void high() {
        top_.clk = 1;
        top_.eval();
        dump(1);
        ++cycles_;
    }
    void tick() {
        low();
        high();
    }
    void dump(unsigned half) {
#if VM_TRACE
        if (trace_) trace_->dump(2 * cycles_ + half);
#else
        (void)half;
#endif
    }

    VerilatedContext& context_;
    Vpopshift top_;
    uint64_t cycles_ = 0;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
#endif
};

// Clocks the board until the host, a signal or the design ends it; returns the seconds not spent waiting for the host.
double run(Board& board, Link& link, const VerilatedContext& context) {
    using Clock = std::chrono::steady_clock;
    std::chrono::duration<double> running{0};
    auto started = Clock::now();
    unsigned idle = 0, since_poll = 0;
    while (!terminated && link.open() && !context.gotFinish()) {
        idle = board.step(link) ? 0 : idle + 1;
        if (++since_poll == kCyclesPerPoll || !link.has_input() && idle == kCyclesToIdle) {
            link.poll_now();
            since_poll = 0;
        }
        if (idle >= kCyclesToIdle && !link.has_input()) {
            running += Clock::now() - started;
            link.wait();
            started = Clock::now();
            idle = 0;
        }
    }
    running += Clock::now() - started;
    return running.count();
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    struct sigaction action {};
    action.sa_handler = on_terminate;
    sigaction(SIGTERM, &action, nullptr);
    std::signal(SIGINT, SIG_IGN);  // Ctrl-C is the host's to handle: it closes the link

    VerilatedContext context;
    context.fatalOnError(false);  // a failed assertion ends the loop, and the report is still written
    context.randReset(options.seed ? 2 : 0);
    context.randSeed(static_cast<int>(options.seed & 0x7fffffff));

    auto link = std::make_unique<Link>(options.link);
    Board board(context, options);
    const double seconds = run(board, *link, context);
    link->poll_now();
    if (!options.report.empty()) {
        if (FILE* file = std::fopen(options.report.c_str(), "w")) {
            std::fprintf(file, "{\"cycles\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(board.cycles()), seconds);
            std::fclose(file);
        }
    }
    if (!context.gotFinish()) return 0;
    std::fprintf(stderr, "stopped by %s at cycle %llu\n", context.gotError() ? "a failed assertion" : "$finish",
                 static_cast<unsigned long long>(board.cycles()));
    return 3;
}
