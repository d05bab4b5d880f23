# Installs a formula as Homebrew would, as far as ours goes: picks the archive of this platform, checks it, unpacks it
# without its outermost folder, runs `install` there, then `test`. See docs.brew.sh/Formula-Cookbook.
# Usage: homebrew.rb FORMULA FOLDER-OF-ARCHIVES PREFIX
require "digest"
require "fileutils"
require "pathname"
require "tmpdir"

formula, archives, prefix = ARGV
PREFIX = Pathname(prefix)

class Pathname
  def install(files) = files.each { |file| FileUtils.cp_r(file, mkpath_self, preserve: true) }

  def install_symlink(files) = files.each { |file| FileUtils.ln_s(file, mkpath_self + File.basename(file)) }

  def mkpath_self
    mkpath
    self
  end
end

class Formula
  @facts = {}
  class << self
    attr_reader :facts, :test_block

    def inherited(child) = child.instance_variable_set(:@facts, {})

    %i[desc homepage version license url sha256].each do |name|
      define_method(name) { |value| @facts[name] = value }
    end

    def on_macos = nil

    def on_arm = nil

    def on_linux = yield

    def on_intel = yield

    def test(&block) = @test_block = block
  end

  def bin = PREFIX + "bin"

  def libexec = PREFIX + "libexec"

  def version = self.class.facts[:version]

  def shell_output(command, expected = 0)
    output = `#{command}`
    raise "#{command} ended with #{$?.exitstatus}: #{output}" if $?.exitstatus != expected

    output
  end

  def assert_match(wanted, text)
    raise "#{wanted} is not in: #{text}" unless text.include?(wanted)
  end

  def generate_completions_from_executable(program, *words, shells:)
    shells.each { |shell| raise "no completion for #{shell}" if shell_output("#{program} #{words.join(" ")} #{shell}").empty? }
  end
end

load formula
facts = Tshyve.facts
%i[desc homepage version license url sha256].each { |name| raise "the formula has no #{name}" unless facts[name] }
archive = File.join(archives, File.basename(facts[:url]))
raise "wrong checksum of #{archive}" if Digest::SHA256.file(archive).hexdigest != facts[:sha256]

Dir.mktmpdir do |folder|
  system("tar", "-C", folder, "--strip-components=1", "-xzf", archive) || raise("cannot unpack #{archive}")
  Dir.chdir(folder) { Tshyve.new.install }
end
raise "no caveats" if Tshyve.new.caveats.empty?
Tshyve.new.instance_eval(&Tshyve.test_block)
