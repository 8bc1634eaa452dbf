// The Python module rag_infer._kernels. A binding checks dtype, layout and shape, allocates, releases the GIL
// and calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "arguments.hpp"
#include "docstrings.hpp"
#include "half.hpp"
#include "instruction_level.hpp"
#include "marginalise.hpp"
#include "quantise.hpp"
#include "rescore.hpp"
#include "topk.hpp"
#include "topk_float16.hpp"
#include "topk_int8.hpp"

namespace py = pybind11;
namespace docstrings = rag_infer::docstrings;
using namespace pybind11::literals;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Tokens = py::array_t<std::int64_t, py::array::c_style>;
using Codes = py::array_t<std::int8_t, py::array::c_style>;
using Halves = py::array_t<std::uint16_t, py::array::c_style>;
using Flags = py::array_t<bool, py::array::c_style>;

std::string shape_of(const py::array& array) {
    std::string text = "[";
    for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + "]";
}

std::size_t size(const py::array& array, int axis) {
    return static_cast<std::size_t>(array.shape(axis));
}

/// pybind11 has checked dtype and order; a misaligned array passes that, and reading it is undefined.
void check_array(const char* name, const py::array& array, const char* shape, int ndim) {
    if (array.ndim() != ndim) {
        throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) + ", expected " +
                                    shape);
    }
    if (reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<std::uintptr_t>(array.itemsize()) != 0) {
        throw py::type_error(std::string(name) + " is not aligned in memory: pass a copy of it");
    }
}

void check_same(const char* what, const char* one, const py::array& a, int axis_a, const char* other,
                const py::array& b, int axis_b) {
    if (a.shape(axis_a) != b.shape(axis_b)) {
        throw std::invalid_argument(
            std::string(one) + " " + shape_of(a) + " and " + other + " " + shape_of(b) + " differ in " +
            what + ": " + std::to_string(a.shape(axis_a)) + " and " + std::to_string(b.shape(axis_b)));
    }
}

void check_search(const Floats& vectors, const Floats& queries, const std::optional<Flags>& mask) {
    check_array("vectors", vectors, "[rows, dim]", 2);
    check_array("queries", queries, "[queries, dim]", 2);
    check_same("dim", "vectors", vectors, 1, "queries", queries, 1);
    if (mask) {
        check_array("mask", *mask, "[rows]", 1);
        check_same("rows", "vectors", vectors, 0, "mask", *mask, 0);
    }
}

std::pair<Floats, Tokens> topk(const Floats& vectors, const Floats& queries, std::int64_t k,
                               const std::optional<Flags>& mask, std::int64_t threads) {
    check_search(vectors, queries, mask);
    const std::size_t wanted = rag_infer::at_least_one("k", k);
    const std::size_t num_threads = rag_infer::at_least_one("threads", threads);
    Floats scores({queries.shape(0), static_cast<py::ssize_t>(k)});
    Tokens rows({queries.shape(0), static_cast<py::ssize_t>(k)});
    float* const scores_data = scores.mutable_data();
    std::int64_t* const rows_data = rows.mutable_data();
    {
        const py::gil_scoped_release released;
        rag_infer::topk(vectors.data(), size(vectors, 0), queries.data(), size(queries, 0), size(vectors, 1),
                        wanted, mask ? mask->data() : nullptr, num_threads, scores_data, rows_data);
    }
    return {std::move(scores), std::move(rows)};
}

/// One of `quantise_rows` and `halve_rows`, whose codes are the arrays `Array`.
template <class Array, class Function>
std::tuple<Array, Floats, Floats, Floats> code_rows(const Floats& vectors, std::int64_t threads,
                                                    const Function& function) {
    check_array("vectors", vectors, "[rows, dim]", 2);
    const std::size_t num_threads = rag_infer::at_least_one("threads", threads);
    Array codes({vectors.shape(0), vectors.shape(1)});
    Floats scales(vectors.shape(0));
    Floats errors(vectors.shape(0));
    Floats norms(vectors.shape(0));
    auto* const codes_data = codes.mutable_data();
    float* const scales_data = scales.mutable_data();
    float* const errors_data = errors.mutable_data();
    float* const norms_data = norms.mutable_data();
    {
        const py::gil_scoped_release released;
        function(vectors.data(), size(vectors, 0), size(vectors, 1), num_threads, codes_data, scales_data,
                 errors_data, norms_data);
    }
    return {std::move(codes), std::move(scales), std::move(errors), std::move(norms)};
}

std::tuple<Codes, Floats, Floats, Floats> quantise_rows(const Floats& vectors, std::int64_t threads) {
    return code_rows<Codes>(vectors, threads, rag_infer::quantise_rows);
}

std::tuple<Halves, Floats, Floats, Floats> halve_rows(const Floats& vectors, std::int64_t threads) {
    return code_rows<Halves>(vectors, threads, rag_infer::halve_rows);
}

void check_coded(const py::array& codes, const Floats& scales, const Floats& errors, const Floats& norms,
                 const Floats& vectors) {
    check_array("codes", codes, "[rows, dim]", 2);
    check_same("rows", "vectors", vectors, 0, "codes", codes, 0);
    check_same("dim", "vectors", vectors, 1, "codes", codes, 1);
    const std::pair<const char*, const Floats&> of_rows[] = {
        {"scales", scales}, {"errors", errors}, {"norms", norms}};
    for (const auto& [name, array] : of_rows) {
        check_array(name, array, "[rows]", 1);
        check_same("rows", "vectors", vectors, 0, name, array, 0);
    }
}

/// One of `topk_int8` and `topk_float16`, whose codes are the arrays `Array`.
template <class Array, class Function>
std::tuple<Floats, Tokens, Tokens> topk_coded(const Array& codes, const Floats& scales, const Floats& errors,
                                              const Floats& norms, const Floats& vectors,
                                              const Floats& queries, std::int64_t k,
                                              const std::optional<Flags>& mask, std::int64_t threads,
                                              const Function& function) {
    check_search(vectors, queries, mask);
    check_coded(codes, scales, errors, norms, vectors);
    const std::size_t wanted = rag_infer::at_least_one("k", k);
    const std::size_t num_threads = rag_infer::at_least_one("threads", threads);
    Floats scores({queries.shape(0), static_cast<py::ssize_t>(k)});
    Tokens rows({queries.shape(0), static_cast<py::ssize_t>(k)});
    Tokens rescored(queries.shape(0));
    float* const scores_data = scores.mutable_data();
    std::int64_t* const rows_data = rows.mutable_data();
    std::int64_t* const rescored_data = rescored.mutable_data();
    {
        const py::gil_scoped_release released;
        function({codes.data(), scales.data(), errors.data(), norms.data()}, vectors.data(), size(vectors, 0),
                 queries.data(), size(queries, 0), size(vectors, 1), wanted, mask ? mask->data() : nullptr,
                 num_threads, scores_data, rows_data, rescored_data);
    }
    return {std::move(scores), std::move(rows), std::move(rescored)};
}

std::tuple<Floats, Tokens, Tokens> topk_int8(const Codes& codes, const Floats& scales, const Floats& errors,
                                             const Floats& norms, const Floats& vectors,
                                             const Floats& queries, std::int64_t k,
                                             const std::optional<Flags>& mask, std::int64_t threads) {
    return topk_coded(codes, scales, errors, norms, vectors, queries, k, mask, threads, rag_infer::topk_int8);
}

std::tuple<Floats, Tokens, Tokens> topk_float16(const Halves& codes, const Floats& scales,
                                                const Floats& errors, const Floats& norms,
                                                const Floats& vectors, const Floats& queries, std::int64_t k,
                                                const std::optional<Flags>& mask, std::int64_t threads) {
    return topk_coded(codes, scales, errors, norms, vectors, queries, k, mask, threads,
                      rag_infer::topk_float16);
}

Floats rescore(const Floats& vectors, const Tokens& rows, const Floats& queries, std::int64_t threads) {
    check_search(vectors, queries, std::nullopt);
    check_array("rows", rows, "[queries, count]", 2);
    check_same("queries", "queries", queries, 0, "rows", rows, 0);
    const std::size_t num_threads = rag_infer::at_least_one("threads", threads);
    Floats scores({rows.shape(0), rows.shape(1)});
    float* const scores_data = scores.mutable_data();
    {
        const py::gil_scoped_release released;
        rag_infer::rescore(vectors.data(), size(vectors, 0), rows.data(), size(rows, 1), queries.data(),
                           size(queries, 0), size(vectors, 1), num_threads, scores_data);
    }
    return scores;
}

rag_infer::Marginaliser marginaliser(const Floats& logits, const Floats& log_priors, std::int64_t threads) {
    const std::size_t num_threads = rag_infer::at_least_one("threads", threads);
    const py::gil_scoped_release released;
    return {logits.data(), log_priors.data(), size(logits, 0), size(logits, 1), size(logits, 2), num_threads};
}

void check_logits(const Floats& logits, const Floats& log_priors) {
    check_array("logits", logits, "[docs, beams, vocab]", 3);
    check_array("log_priors", log_priors, "[docs]", 1);
    check_same("docs", "logits", logits, 0, "log_priors", log_priors, 0);
}

std::pair<Floats, Tokens> marginalise_topk(const Floats& logits, const Floats& log_priors, std::int64_t k,
                                           std::int64_t threads) {
    check_logits(logits, log_priors);
    const std::size_t wanted = rag_infer::at_least_one("k", k);
    const rag_infer::Marginaliser sums = marginaliser(logits, log_priors, threads);
    Floats log_probs({logits.shape(1), static_cast<py::ssize_t>(k)});
    Tokens tokens({logits.shape(1), static_cast<py::ssize_t>(k)});
    float* const log_probs_data = log_probs.mutable_data();
    std::int64_t* const tokens_data = tokens.mutable_data();
    {
        const py::gil_scoped_release released;
        sums.topk(wanted, log_probs_data, tokens_data);
    }
    return {std::move(log_probs), std::move(tokens)};
}

Floats marginalise_log_probs(const Floats& logits, const Floats& log_priors, std::int64_t threads) {
    check_logits(logits, log_priors);
    const rag_infer::Marginaliser sums = marginaliser(logits, log_priors, threads);
    Floats log_probs({logits.shape(1), logits.shape(2)});
    float* const log_probs_data = log_probs.mutable_data();
    {
        const py::gil_scoped_release released;
        sums.log_probs(log_probs_data);
    }
    return log_probs;
}

std::pair<Floats, Floats> marginalise_gather(const Floats& logits, const Floats& log_priors,
                                             const Tokens& tokens, std::int64_t threads) {
    check_logits(logits, log_priors);
    check_array("tokens", tokens, "[beams, tokens]", 2);
    check_same("beams", "logits", logits, 1, "tokens", tokens, 0);
    const rag_infer::Marginaliser sums = marginaliser(logits, log_priors, threads);
    Floats marginal({tokens.shape(0), tokens.shape(1)});
    Floats per_document({logits.shape(0), tokens.shape(0), tokens.shape(1)});
    float* const marginal_data = marginal.mutable_data();
    float* const per_document_data = per_document.mutable_data();
    {
        const py::gil_scoped_release released;
        sums.gather(tokens.data(), size(tokens, 1), marginal_data, per_document_data);
    }
    return {std::move(marginal), std::move(per_document)};
}

std::string instruction_level() {
    return rag_infer::level_name(rag_infer::current_level());
}

py::typing::Tuple<py::str, py::ellipsis> available_levels() {
    py::list names;
    for (const rag_infer::Level level : rag_infer::available_levels())
        names.append(rag_infer::level_name(level));
    return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_kernels, module) {
    module.doc() =
        "Compiled kernels: exact search and sums over passages. Arrays are refused, never converted.";
    rag_infer::set_level_from_environment();  // a bad name becomes an ImportError
    module.def("topk", &topk, docstrings::kTopkDoc, "vectors"_a.noconvert(), "queries"_a.noconvert(),
               "k"_a.noconvert(), py::kw_only(), "mask"_a.noconvert() = py::none(),
               "threads"_a.noconvert() = 1);
    module.def("quantise_rows", &quantise_rows, docstrings::kQuantiseRowsDoc, "vectors"_a.noconvert(),
               py::kw_only(), "threads"_a.noconvert() = 1);
    module.def("topk_int8", &topk_int8, docstrings::kTopkInt8Doc, "codes"_a.noconvert(),
               "scales"_a.noconvert(), "errors"_a.noconvert(), "norms"_a.noconvert(), "vectors"_a.noconvert(),
               "queries"_a.noconvert(), "k"_a.noconvert(), py::kw_only(), "mask"_a.noconvert() = py::none(),
               "threads"_a.noconvert() = 1);
    module.def("halve_rows", &halve_rows, docstrings::kHalveRowsDoc, "vectors"_a.noconvert(), py::kw_only(),
               "threads"_a.noconvert() = 1);
    module.def("topk_float16", &topk_float16, docstrings::kTopkFloat16Doc, "codes"_a.noconvert(),
               "scales"_a.noconvert(), "errors"_a.noconvert(), "norms"_a.noconvert(), "vectors"_a.noconvert(),
               "queries"_a.noconvert(), "k"_a.noconvert(), py::kw_only(), "mask"_a.noconvert() = py::none(),
               "threads"_a.noconvert() = 1);
    module.def("rescore", &rescore, docstrings::kRescoreDoc, "vectors"_a.noconvert(), "rows"_a.noconvert(),
               "queries"_a.noconvert(), py::kw_only(), "threads"_a.noconvert() = 1);
    module.def("marginalise_topk", &marginalise_topk, docstrings::kMarginaliseTopkDoc, "logits"_a.noconvert(),
               "log_priors"_a.noconvert(), "k"_a.noconvert(), py::kw_only(), "threads"_a.noconvert() = 1);
    module.def("marginalise_log_probs", &marginalise_log_probs, docstrings::kMarginaliseLogProbsDoc,
               "logits"_a.noconvert(), "log_priors"_a.noconvert(), py::kw_only(),
               "threads"_a.noconvert() = 1);
    module.def("marginalise_gather", &marginalise_gather, docstrings::kMarginaliseGatherDoc,
               "logits"_a.noconvert(), "log_priors"_a.noconvert(), "tokens"_a.noconvert(), py::kw_only(),
               "threads"_a.noconvert() = 1);
    module.def("instruction_level", &instruction_level, docstrings::kInstructionLevelDoc);
    module.def("available_levels", &available_levels, docstrings::kAvailableLevelsDoc);
    module.def("has_vnni", &rag_infer::has_vnni, docstrings::kHasVnniDoc);
    module.def("set_instruction_level", &rag_infer::set_level, docstrings::kSetInstructionLevelDoc, "name"_a);
}
