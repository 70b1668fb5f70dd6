// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <diffeo/data/npy.hpp>
#include <diffeo/training/maximum_likelihood.hpp>
#include <diffeo/training/row_order.hpp>
#include <memory>
#include <string>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

/// Options of FileLikelihood.
///
/// | option      | type               | default                                                               |
/// |-------------|--------------------|-----------------------------------------------------------------------|
/// | columns     | std::vector<Index> | empty: all columns that are not those of the context; else those of x |
/// | context     | std::vector<Index> | empty: none; else the columns of the file that are the context c      |
/// | block_bytes | std::size_t        | 64 MiB: memory for the rows that minibatches are chosen from          |
/// | chunk_rows  | Index              | 4096: rows that follow one another in the file and are read together  |
struct FileLikelihoodOptions {
  std::vector<Index> columns = {};
  std::vector<Index> context = {};
  std::size_t block_bytes = std::size_t{64} << 20;
  Index chunk_rows = 4096;
};

/// The negative log-likelihood of the rows of an .npy file that need not fit into memory: fit() goes through the file
/// in blocks. A block is made of chunks of consecutive rows from all over the file, drawn at random without repetition,
/// so that a file that is sorted is mixed well; the rows of a block are shuffled. Of each block the last rows, fewer
/// than a minibatch, are left out, others in each epoch. Where one block holds the whole file, the training has the
/// bits of one with the data in memory. The file is read and not mapped, so that one that is cut meanwhile is an error
/// and does not end the process.
///
///     diffeo::FileLikelihood<float> data("events.npy");
///     diffeo::TransformedDistribution model(diffeo::StandardNormal<float>(data.dim()),
///                                           diffeo::real_nvp(data.sample(100'000).x));
///     diffeo::fit(model, data, {.steps = 100'000});
///
/// Validation needs an objective of its own: fit(model, data, validation, options).
template <Real S>
class FileLikelihood {
  struct Block;

 public:
  /// Opens the file, of which the objective and its copies share a handle. Throws `io_error` as NpyFile does, and
  /// invalid_argument for a file without rows, columns that it does not have or that are named twice, none left for x,
  /// and a block of less than a row.
  explicit FileLikelihood(const std::string& path, FileLikelihoodOptions options = {})
      : options_(std::move(options)), file_(std::make_shared<const NpyFile<S>>(path)) {
    require(file_->rows() > 0, "fit: ", path, " has no rows");
    std::vector<bool> used(static_cast<std::size_t>(file_->cols()), false);
    const auto use = [&](const std::vector<Index>& columns) {
      for (const Index column : columns) {
        require(column >= 0 && column < file_->cols(), "fit: column ", column, ", ", path, " has ", file_->cols(),
                " columns");
        require(!used[static_cast<std::size_t>(column)], "fit: column ", column, " of ", path, " is named twice");
        used[static_cast<std::size_t>(column)] = true;
      }
    };
    use(options_.context);
    if (options_.columns.empty()) {
      for (Index column = 0; column < file_->cols(); ++column)
        if (!used[static_cast<std::size_t>(column)]) options_.columns.push_back(column);
    } else {
      use(options_.columns);
    }
    require(!options_.columns.empty(), "fit: no columns of ", path, " are left for x");
    require(options_.chunk_rows >= 1, "fit: chunk_rows is ", options_.chunk_rows, ", expected at least 1");
    require(options_.block_bytes >= row_bytes(), "fit: block_bytes is ", options_.block_bytes, ", a row has ",
            row_bytes());
    const auto affordable = static_cast<Index>(options_.block_bytes / row_bytes());
    const Index chunk_rows = std::min({options_.chunk_rows, affordable, size()});
    chunks_ = (size() + chunk_rows - 1) / chunk_rows;
    const Index chunks_per_block = std::max<Index>(1, affordable / chunk_rows);
    blocks_ = size() <= affordable ? 1 : (chunks_ + chunks_per_block - 1) / chunks_per_block;
  }

  /// Number of rows of the file.
  Index size() const { return file_->rows(); }
  /// Number of columns of x.
  Index dim() const { return static_cast<Index>(options_.columns.size()); }
  /// Number of columns of the context.
  Index context_dim() const { return static_cast<Index>(options_.context.size()); }
  /// Number of blocks that an epoch reads.
  Index blocks() const { return blocks_; }

  /// Throws invalid_argument where the model has another dimension than the data or takes another context, with a
  /// message that begins with `who`.
  template <class Model>
  void check(const Model& model, const char* who = "fit") const {
    detail::require_columns_of_model(model, dim(), context_dim(), who);
  }

  /// Returns so many rows (all if there are fewer), spread over the file: to standardise by, say. Throws `io_error` as
  /// NpyFile::read_rows() does, and invalid_argument for a number below 1 and for NaN or infinity.
  Dataset<S> sample(Index rows) const {
    require(rows >= 1, "sample: rows is ", rows, ", expected at least 1");
    Dataset<S> result;
    Block block;
    gather(block, detail::spread_rows(size(), rows), result.x, result.context);
    return result;
  }

  /// Returns warnings and throws as MaximumLikelihood::inspect() does, for 10,000 rows spread over the file. A column
  /// with one value in these rows is warned of, because others may have other values.
  std::vector<std::string> inspect() const {
    const Dataset<S> some = sample(10'000);
    std::vector<std::string> names;
    for (const Index column : options_.columns)
      names.push_back(concat_message("column ", column, " of ", file_->path()));
    require_resolved_columns("fit: data", some.x, names, ConstantColumns::allowed);
    require_resolved_columns("fit: the context", some.context, {}, ConstantColumns::allowed);
    return repetition_warnings(some.x, names);
  }

  /// Rows in memory, those of the minibatch apart.
  struct StepState {
    Array<S> x, context;  ///< of the minibatch
    Block block;
  };

  /// Chooses the rows of a minibatch, and reads the next block where the rows of the last one are used up.
  void choose_rows(StepState& state, std::span<Index> chosen, std::uint64_t seed) const {
    Block& block = state.block;
    if (blocks_ == 1) {
      if (block.left == 0) {  // which it is at first only
        block.order = detail::RowOrder(permutation(size(), seed, detail::split_stream), seed);
        block.chunks.resize(static_cast<std::size_t>(chunks_));
        for (Index chunk = 0; chunk < chunks_; ++chunk) block.chunks[static_cast<std::size_t>(chunk)] = chunk;
        load(block, 0, chunks_);
      }
    } else {
      while (block.left < static_cast<Index>(chosen.size())) next_block(block, static_cast<Index>(chosen.size()), seed);
      block.left -= static_cast<Index>(chosen.size());
    }
    block.order.choose(chosen);
  }

  /// Copies the rows of the minibatch out of the block. Rows that it does not hold are read from the file.
  void begin_step(StepState& state, const Minibatch& whole) const {
    gather(state.block, whole.rows, state.x, state.context);
  }

  template <class Model>
    requires requires(const Model& model, const Var<S>& x) { model.log_prob(x); }
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch, const StepState& state) const {
    const auto part = [&](const Array<S>& from) { return tape.copy(from.middleRows(batch.first, batch.count)); };
    return detail::negative_log_likelihood(model, part(state.x), context_dim() > 0 ? part(state.context) : Var<S>(),
                                           batch);
  }

 private:
  // The chunks in memory, and the order in which their rows are chosen.
  struct Block {
    std::vector<S> rows;        // one after another, the columns of x and then those of the context
    std::vector<Index> place;   // of the chunks, where their rows begin in `rows`; -1: not in memory
    std::vector<Index> chunks;  // in the order of the epoch
    std::vector<S> read;        // rows as they are in the file
    detail::RowOrder order;
    Index left = 0, next = 0;  // rows to choose; number of the next block
    std::uint64_t epoch = 0;
  };

  Index width() const { return dim() + context_dim(); }
  std::size_t row_bytes() const { return static_cast<std::size_t>(width()) * sizeof(S); }
  // Chunks differ by a row at most.
  Index begin_of(Index chunk) const { return chunk * size() / chunks_; }
  Index rows_of(Index chunk) const { return begin_of(chunk + 1) - begin_of(chunk); }
  Index chunk_of(Index row) const { return ((row + 1) * chunks_ - 1) / size(); }

  void next_block(Block& block, Index batch, std::uint64_t seed) const {
    constexpr std::uint64_t chunk_stream = 0x6368756e6b732121;  // apart from the other streams
    const Index smallest = chunks_ / blocks_ * (size() / chunks_);
    require(smallest >= batch, "fit: a block of ", file_->path(), " has ", smallest, " rows, the minibatch ", batch,
            ": raise block_bytes");
    const Index number = block.next % blocks_;
    if (number == 0) block.chunks = permutation(chunks_, seed, chunk_stream + block.epoch++);
    const Index begin = number * chunks_ / blocks_, end = (number + 1) * chunks_ / blocks_;
    load(block, begin, end);
    std::vector<Index> rows;
    for (Index i = begin; i < end; ++i) {
      const Index chunk = block.chunks[static_cast<std::size_t>(i)];
      for (Index k = 0; k < rows_of(chunk); ++k) rows.push_back(begin_of(chunk) + k);
    }
    block.order = detail::RowOrder(std::move(rows), seed, static_cast<std::uint64_t>(block.next++));
  }

  // Reads the chunks [begin, end) of the epoch's order, in the order of the file.
  void load(Block& block, Index begin, Index end) const {
    std::sort(block.chunks.begin() + begin, block.chunks.begin() + end);
    block.place.assign(static_cast<std::size_t>(chunks_), -1);
    Index at = 0;
    for (Index i = begin; i < end; ++i) at += rows_of(block.chunks[static_cast<std::size_t>(i)]);
    block.rows.resize(static_cast<std::size_t>(at * width()));
    at = 0;
    for (Index i = begin; i < end; ++i) {
      const Index chunk = block.chunks[static_cast<std::size_t>(i)];
      read(block.read, begin_of(chunk), rows_of(chunk), block.rows.data() + at * width());
      block.place[static_cast<std::size_t>(chunk)] = at;
      at += rows_of(chunk);
    }
    block.left = at;
  }

  // Reads rows and keeps the columns of x and of the context.
  void read(std::vector<S>& whole, Index first, Index count, S* to) const {
    whole.resize(static_cast<std::size_t>(count * file_->cols()));
    file_->read_rows_in_row_order(first, count, whole.data());
    for (Index i = 0; i < count; ++i) {
      const S* row = whole.data() + i * file_->cols();
      for (const std::vector<Index>* columns : {&options_.columns, &options_.context})
        for (const Index column : *columns) {
          require(std::isfinite(row[column]), "fit: ", file_->path(), " is ", row[column], " at (row ", first + i,
                  ", column ", column, "), expected finite values");
          *to++ = row[column];
        }
    }
  }

  // Rows that are not in memory and follow one another are read together.
  void gather(const Block& block, std::span<const Index> rows, Array<S>& x, Array<S>& context) const {
    const auto count = static_cast<Index>(rows.size());
    x.resize(count, dim());
    context.resize(count, context_dim());
    const auto in_memory = [&](Index i) -> const S* {
      const Index row = rows[static_cast<std::size_t>(i)], chunk = chunk_of(row);
      const Index place = block.place.empty() ? -1 : block.place[static_cast<std::size_t>(chunk)];
      return place < 0 ? nullptr : block.rows.data() + (place + row - begin_of(chunk)) * width();
    };
    const auto copy = [&](Index i, const S* values) {
      for (Index j = 0; j < dim(); ++j) x(i, j) = values[j];
      for (Index j = 0; j < context_dim(); ++j) context(i, j) = values[dim() + j];
    };
    std::vector<S> kept, whole;
    for (Index i = 0; i < count;) {
      if (const S* values = in_memory(i)) {
        copy(i++, values);
        continue;
      }
      const Index first = rows[static_cast<std::size_t>(i)];
      Index run = 1;
      while (i + run < count && run < options_.chunk_rows && rows[static_cast<std::size_t>(i + run)] == first + run &&
             !in_memory(i + run))
        ++run;
      kept.resize(static_cast<std::size_t>(run * width()));
      read(whole, first, run, kept.data());
      for (Index k = 0; k < run; ++k) copy(i + k, kept.data() + k * width());
      i += run;
    }
  }

  FileLikelihoodOptions options_;
  std::shared_ptr<const NpyFile<S>> file_;
  Index chunks_ = 0, blocks_ = 0;
};

}  // namespace diffeo::inline DIFFEO_ISA
